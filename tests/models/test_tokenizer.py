"""Chat templates with the keywords of a configuration, and with the date of the run's start."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm import chat_templates
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo_cli.errors import ModelError
from grpo_cli.models.load import load_tokenizer
from grpo_cli.models.tokenizer import ChatTokenizer
from tests.support.chat_models import GEMMA, KINDS, LEAVES_OUT, MISTRAL_1, chat_model, tokenizer_of
from tests.support.doctor_findings import fast_copy

LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}\n{{ date_string }}{{ messages[0].content }}"
)
GPT_OSS = '{% macro system() %}\nCurrent date: {{ strftime_now("%Y-%m-%d") }}{% endmacro %}\n{{ system() }}'
SMOLLM3 = '{%- set today = strftime_now("%d %B %Y at %-d%%") -%}{{- "Today " ~ today -}}'


def bytes_tokenizer(template: str) -> ChatTokenizer:
    """A tokenizer of one token a byte, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    outer = PreTrainedTokenizerFast(tokenizer_object=inner)
    outer.chat_template = template
    return ChatTokenizer(TokenizerWrapper(outer, eos_token_ids=[0]))


def prompt(template: str, now: datetime | None) -> str:
    tokenizer = bytes_tokenizer(template)
    tokenizer.now = now
    return tokenizer.decode(tokenizer.encode_prompt([{"role": "user", "content": "hi"}]))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, "03 Feb 2021hi"),
        (GPT_OSS, "Current date: 2021-02-03"),
        ("{{ strftime_now('%d, not %%d or %%%m') }}", "03, not %d or %02"),
        (SMOLLM3, "Today 03 February 2021 at 3%"),
        ("\n  {{ messages[0].content }}", "\n  hi"),
    ],
)
def test_a_template_is_told_the_date_of_the_start(template: str, text: str) -> None:
    assert prompt(template, datetime(2021, 2, 3)) == text


@pytest.mark.parametrize("template", [LLAMA, GPT_OSS, SMOLLM3, "\n {{ strftime_now('%Y') }}\n"])
def test_nothing_but_the_date_is_changed(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2021, 2, 3)
    pinned = prompt(template, moment)
    clock: Any = SimpleNamespace(now=lambda: moment)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", clock)
    assert prompt(template, None) == pinned


def with_pattern(pattern: str) -> Callable[[dict[str, Any]], None]:
    """Let a tokenizer.json split texts by a regular expression."""

    def change(content: dict[str, Any]) -> None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}

    return change


def test_a_regular_expression_that_takes_too_long_is_an_error_of_its_folder(tmp_path: Path) -> None:
    folder = fast_copy(tmp_path / "m", with_pattern("(a+)+$"))
    tokenizer = load_tokenizer(folder, {})
    assert tokenizer.spell(tokenizer.encode("aab")) == "aab"
    slow = "a" * 40 + "b"
    prompts: list[Callable[[], object]] = [
        lambda: tokenizer.encode(slow),
        lambda: tokenizer.encode_text(slow),
        lambda: tokenizer.encode_prompt([{"role": "user", "content": slow}]),
    ]
    for encode in prompts:
        with pytest.raises(ModelError) as error:
            encode()
        assert error.value.message.startswith(f"The tokenizer in {folder} fails on a text: ")
        assert "retry-limit-in-match over" in error.value.message


ASK = [{"role": "user", "content": "hi"}]
NO_THINKING = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_keyword_reaches_the_template() -> None:
    tokenizer = chat_model("qwen3").tokenizer
    assert tokenizer.spell(tokenizer.encode_prompt(ASK)) == NO_THINKING.partition("<think>")[0]
    tokenizer.template_keywords = {"enable_thinking": False}
    assert tokenizer.spell(tokenizer.encode_prompt(ASK)) == NO_THINKING
    assert tokenizer.render(ASK, None) == NO_THINKING


def test_keywords_do_not_change_what_the_program_passes() -> None:
    tokenizer = chat_model("qwen3").tokenizer
    whole = tokenizer.encode_prompt(ASK)
    tokenizer.template_keywords = {"add_generation_prompt": False}
    assert tokenizer.encode_prompt(ASK) == whole


def test_a_date_as_a_keyword_replaces_that_of_the_start() -> None:
    tokenizer = bytes_tokenizer(LLAMA)
    tokenizer.now = datetime(2021, 2, 3)
    tokenizer.template_keywords = {"date_string": "26 Jul 2024"}
    assert tokenizer.decode(tokenizer.encode_prompt(ASK)) == "26 Jul 2024hi"


def test_keywords_that_a_template_does_not_read_are_named() -> None:
    tokenizer = chat_model("qwen3").tokenizer
    tokenizer.template_keywords = {"enable_thinkng": False, "enable_thinking": False}
    assert tokenizer.unread_keywords() == ["enable_thinkng"]
    tokenizer.wrapped._tokenizer.chat_template = {"default": "{{ a }}", "tool_use": "{{ b }}"}
    tokenizer.template_keywords = {"a": 1, "b": 2, "c": 3}
    assert tokenizer.unread_keywords() == ["c"]


SYSTEM = [{"role": "system", "content": "Be brief."}]
TALK = [*ASK, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "again"}]
GEMMA_TEXT = (
    "<bos><start_of_turn>user\nBe brief.\n\nhi<end_of_turn>\n<start_of_turn>model\nho<end_of_turn>\n"
    "<start_of_turn>user\nagain<end_of_turn>\n<start_of_turn>model\n"
)
CHATML_TEXT = (
    "<|im_start|>user\nBe brief.\n\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"
    "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("template", "special", "whole"),
    [
        (GEMMA, ["<start_of_turn>", "<end_of_turn>"], GEMMA_TEXT),
        (MISTRAL_1, ["[INST]", "</s>"], "<bos>[INST] Be brief.\n\nhi [/INST]ho</s>[INST] again [/INST]"),
        (LEAVES_OUT, ["<|im_start|>", "<|im_end|>"], CHATML_TEXT),
    ],
    ids=["gemma", "mistral", "leaves out"],
)
def test_a_system_message_without_a_role_stands_before_the_first_question(
    template: str, special: list[str], whole: str
) -> None:
    tokenizer = tokenizer_of(template, ["<bos>", *special], [], special[1:], "<bos>")
    assert tokenizer.spell(tokenizer.encode_prompt([*SYSTEM, *TALK])) == whole
    assert tokenizer.render([*SYSTEM, *TALK], None) == whole
    together = [{"role": "user", "content": "Be brief.\n\nhi"}, *TALK[1:]]
    assert tokenizer.encode_prompt([*SYSTEM, *TALK]) == tokenizer.encode_prompt(together)


@pytest.mark.parametrize("name", ["qwen2_5", "hermes", "llama3_2", "lfm2"])
def test_a_template_with_a_system_role_keeps_it(name: str) -> None:
    tokenizer = chat_model(name).tokenizer
    assert not tokenizer.merges_system
    whole = tokenizer.wrapped.apply_chat_template([*SYSTEM, *ASK], add_generation_prompt=True)
    assert tokenizer.encode_prompt([*SYSTEM, *ASK]) == whole


def test_a_conversation_without_a_question_stays_refused() -> None:
    tokenizer = tokenizer_of(GEMMA, ["<start_of_turn>", "<end_of_turn>"], [], ["<end_of_turn>"])
    with pytest.raises(ModelError, match="refuses a conversation of system: System role not supported"):
        tokenizer.encode_prompt(SYSTEM)


def test_a_base_model_s_paragraphs_begin_with_the_system_message() -> None:
    tokenizer = tokenizer_of(None, ["<e>"], [], ["<e>"])
    assert not tokenizer.merges_system
    assert tokenizer.decode(tokenizer.encode_prompt([*SYSTEM, *ASK])) == "Be brief.\n\nhi\n\n"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_models_that_list_their_ends_get_no_others(name: str) -> None:
    """Also gpt-oss, whose template ends earlier answers with `<|end|>`, after which the model goes on."""
    tokenizer = chat_model(name).tokenizer
    before = tokenizer.eos_ids
    tokenizer.add_turn_ends()
    assert (tokenizer.turn_ends, tokenizer.eos_ids) == ([], before)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"])
def test_the_token_that_ends_an_answer_ends_a_completion(end: str) -> None:
    template = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
    tokenizer = tokenizer_of(template, ["</s>", end], [], ["</s>"])
    tokenizer.add_turn_ends()
    assert tokenizer.eos_ids == {*tokenizer.encode("</s>"), *tokenizer.encode(end)}
    assert tokenizer.turn_ends == tokenizer.encode(end)


def test_an_end_of_turn_that_the_tokenizer_names() -> None:
    tokenizer = tokenizer_of(None, ["</s>", "<x>"], [], ["</s>"])
    tokenizer.wrapped._tokenizer.eot_token = "<x>"
    tokenizer.add_turn_ends()
    assert tokenizer.turn_ends == tokenizer.encode("<x>")


def continued(tokenizer: ChatTokenizer, prefix: str) -> list[int]:
    """The ids of a prefix as transformers' continue_final_message begins an answer with it."""
    talk = [*ASK, {"role": "assistant", "content": prefix}]
    options = {"continue_final_message": True, "return_dict": False, **tokenizer._clock()}
    return list(tokenizer.wrapped.apply_chat_template(talk, **options))


@pytest.mark.parametrize("prefix", ["<reasoning>", "The answer is"])
@pytest.mark.parametrize("name", ["gpt_oss", "hermes", "lfm2", "llama3_2", "qwen2_5"])
def test_a_prefix_begins_the_final_message(name: str, prefix: str) -> None:
    tokenizer = chat_model(name).tokenizer
    assert tokenizer.encode_prompt(ASK, prefix) == continued(tokenizer, prefix)


@pytest.mark.parametrize("name", sorted({*KINDS} - {"gpt_oss"}))
def test_a_prefix_follows_the_generation_prompt(name: str) -> None:
    """Also where transformers would end the thinking before it (Qwen3) or put a space there (Mistral)."""
    tokenizer = chat_model(name).tokenizer
    assert tokenizer.encode_prompt(ASK, "<think>\n") == [
        *tokenizer.encode_prompt(ASK),
        *tokenizer.encode("<think>\n"),
    ]


def test_an_answer_of_gpt_oss_with_a_prefix_has_its_channel() -> None:
    tokenizer = chat_model("gpt_oss").tokenizer
    text = tokenizer.spell(tokenizer.encode_prompt(ASK, "<reasoning>"))
    assert text.endswith("<|start|>assistant<|channel|>final<|message|><reasoning>")
    assert tokenizer.spell(tokenizer.encode_prompt(ASK)).endswith("<|end|><|start|>assistant")


def test_mlx_lm_s_own_templates_read_no_clock() -> None:
    """They are programs: the date of the run's start could not be given to them."""
    sources = list(Path(chat_templates.__path__[0]).glob("*.py"))
    assert len(sources) > 1
    assert not [path.name for path in sources if re.search(r"strftime|import (date)?time", path.read_text())]
