"""Small tokenizers with the chat templates of eight models, for tests; no download is needed.

    model = chat_model("qwen3")
    model.tokenizer.encode_prompt(messages, tools=SCHEMAS)

Letters are byte-level tokens, with a few merges as a real vocabulary has them, and the template's markers are
added tokens of the kinds that the model has: special, or not special as Qwen's `<tool_call>`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo_cli.models.tokenizer import ChatTokenizer

TEMPLATES = Path(__file__).parents[1] / "fixtures/chat_templates"
PATTERN = (
    "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+"
)
MERGES = [("Ċ", "Ċ"), ("Ġ", "a"), ("i", "n"), ("e", "r"), ("Ġ", "2"), (">", "Ċ"), ("<", "|"), ("|", ">")]
SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look up a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "year": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TOOL_TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
THINK = ["<think>", "</think>"]
HEADERS = ["<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
INST = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
HARMONY = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"]
PYTHONIC = [f"<|tool_{kind}_{side}|>" for kind in ("list", "call", "response") for side in ("start", "end")]

# The forms of Gemma 2 and Mistral 7B v0.1, which have no system role, and one that leaves its message out.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
LEAVES_OUT = (
    "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class ChatModel:
    """A model's tokenizer and its end tokens."""

    name: str
    tokenizer: ChatTokenizer
    ends: list[str]


# name: special tokens, other added tokens, end tokens, begin token
KINDS: dict[str, tuple[list[str], list[str], list[str], str | None]] = {
    "qwen2_5": (CHATML, TOOL_TAGS[:2], ["<|im_end|>", "<|endoftext|>"], None),
    "qwen3": (CHATML, [*TOOL_TAGS, *THINK], ["<|im_end|>", "<|endoftext|>"], None),
    "qwen3_5": (CHATML, [*TOOL_TAGS, *THINK], ["<|im_end|>", "<|endoftext|>"], None),
    "llama3_2": (
        [*HEADERS, "<|start_header_id|>", "<|end_header_id|>"],
        [],
        ["<|eot_id|>", "<|eom_id|>"],
        "<|begin_of_text|>",
    ),
    "mistral": (["<s>", "</s>", *INST, "[/TOOL_RESULTS]"], [], ["</s>"], "<s>"),
    "hermes": ([*CHATML, "<s>"], TOOL_TAGS, ["<|im_end|>"], "<s>"),
    "gpt_oss": ([*HARMONY, "<|endoftext|>"], [], ["<|return|>", "<|call|>", "<|endoftext|>"], None),
    "lfm2": ([*CHATML, *PYTHONIC, "<s>"], [], ["<|im_end|>"], "<s>"),
}


def chat_model(name: str) -> ChatModel:
    """The tokenizer of that name with its template."""
    special, added, ends, begin = KINDS[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatModel(name, tokenizer_of(template, special, added, ends, begin), ends)


def tokenizer_of(
    template: str | dict[str, str] | None,
    special: list[str],
    added: list[str],
    ends: list[str],
    begin: str | None = None,
) -> ChatTokenizer:
    """A byte-level tokenizer with these added tokens, wrapped as mlx-lm loads it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *("".join(pair) for pair in MERGES)]
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, MERGES))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=_regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    inner.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
    named: dict[str, Any] = {"bos_token": begin} if begin else {}
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=ends[0], **named)
    outer.chat_template = template
    return wrapped(outer, ends)


def wrapped(outer: Any, ends: list[str]) -> ChatTokenizer:
    """The tokenizer as mlx_lm.tokenizer_utils.load wraps it, with its choice of a parser."""
    from importlib import import_module

    from mlx_lm.tokenizer_utils import _infer_tool_parser

    parser = _infer_tool_parser(outer)
    module = import_module(f"mlx_lm.tool_parsers.{parser}") if parser else None
    return ChatTokenizer(
        TokenizerWrapper(
            outer,
            eos_token_ids=[outer.convert_tokens_to_ids(text) for text in ends],
            tool_call_start=module.tool_call_start if module else None,
            tool_call_end=module.tool_call_end if module else None,
            tool_parser=module.parse_tool_call if module else None,
        )
    )


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)
