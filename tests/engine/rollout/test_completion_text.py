"""Texts of completions: the blank after the prefix, tokens that stay and that go, and stop strings."""

from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.errors import ModelError
from grpo_cli.models.tokenizer import ChatTokenizer
from tests.support.random_models import llama_policy

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<answer>", "</answer>"]


def sentencepiece(template: str | None = TEMPLATE) -> ChatTokenizer:
    """A tokenizer as Llama 2's: `▁` is a blank, bytes have tokens, the first blank of a text is dropped."""
    pieces = ["<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁Theanswriuydt42"]
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(dict.fromkeys(pieces))}, [],
                                   unk_token="<unk>", byte_fallback=True))  # fmt: skip
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in [*CONTROL, *TAGS]])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )
    return ChatTokenizer(TokenizerWrapper(fast))


def ids_of(tokenizer: ChatTokenizer, *tokens: str) -> list[int]:
    return list(tokenizer.wrapped.convert_tokens_to_ids(list(tokens)))


def test_the_blank_after_the_prefix_is_kept() -> None:
    tokenizer = sentencepiece()
    text = CompletionText(tokenizer, "The answer is")
    assert text.of(ids_of(tokenizer, "▁", "4", "2")) == "The answer is 42"
    assert text.of(ids_of(tokenizer, "4", "2")) == "The answer is42"  # it said so
    assert text.of([]) == "The answer is"
    assert CompletionText(tokenizer).of(ids_of(tokenizer, "▁", "4", "2")) == "42"


def test_a_character_of_several_tokens_is_whole_or_replaced() -> None:
    tokenizer = sentencepiece()
    text = CompletionText(tokenizer, "The answer is")
    euro = ids_of(tokenizer, "<0xE2>", "<0x82>", "<0xAC>")
    assert text.of([*ids_of(tokenizer, "▁"), *euro]) == "The answer is €"
    assert text.of([*ids_of(tokenizer, "▁"), *euro[:2]]).startswith("The answer is \N{REPLACEMENT CHARACTER}")


def test_special_tokens_of_the_task_stay_and_control_tokens_go() -> None:
    tokenizer = sentencepiece()
    said = ids_of(tokenizer, "<s>", "<answer>", "4", "</answer>", "<|im_end|>", "<|im_start|>", "</s>")
    assert CompletionText(tokenizer).of(said) == "<answer>4</answer>"
    assert tokenizer.control_ids == frozenset(ids_of(tokenizer, "<unk>", *CONTROL))
    assert tokenizer.spell(said) == "<s><answer>4</answer><|im_end|><|im_start|></s>"


def test_without_a_template_only_tokens_with_a_role_go() -> None:
    tokenizer = sentencepiece(template=None)
    said = ids_of(tokenizer, "4", "<|im_end|>", "</s>")
    assert CompletionText(tokenizer).of(said) == "4<|im_end|>"


def test_a_template_that_refuses_the_conversation_leaves_the_tokens_with_a_role() -> None:
    tokenizer = sentencepiece("{{ raise_exception('no') }}")
    assert tokenizer.control_ids == frozenset(ids_of(tokenizer, "<unk>", "<s>", "</s>"))


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|im_end|>4", "</answer>", "42", " 42"])
def test_a_stop_string_is_found_whatever_spells_it(stop: str) -> None:
    tokenizer = sentencepiece()
    text = CompletionText(tokenizer, "The answer is")
    said = {
        "<|im_end|>": ids_of(tokenizer, "4", "<|im_end|>"),
        "<|im_end|>4": ids_of(tokenizer, "4", "<|im_end|>", "4"),
        "</answer>": ids_of(tokenizer, "<answer>", "4", "</answer>"),
        "42": ids_of(tokenizer, "4", "2"),
        " 42": ids_of(tokenizer, "▁", "4", "2"),
    }[stop]
    assert text.ends_with_one_of((stop,), said)
    assert not text.ends_with_one_of((stop,), said[:-1])
    assert text.ends_with_one_of((stop,), [*ids_of(tokenizer, "T") * 100, *said])


def test_looking_for_a_stop_costs_the_same_for_every_token() -> None:
    seen: list[int] = []

    class Counting:
        def spell(self, ids: list[int]) -> str:
            seen.append(len(ids))
            return "x" * len(ids)

    text: Any = CompletionText(Counting())  # type: ignore[arg-type]
    text.ends_with_one_of(("stop",), [1] * 100_000)
    assert sum(seen) <= 20


def test_a_prompt_with_a_token_that_the_model_has_no_row_for_is_refused() -> None:
    policy = llama_policy()  # 257 rows
    with pytest.raises(ModelError, match=r"\(257\) occurs in a prompt, but the model has only 257 rows"):
        generate(policy, [[1, 2], [3, 257]], 1, Sampling(max_new_tokens=2))


def test_ids_that_no_text_uses_are_not_needed() -> None:
    tokenizer = sentencepiece()
    tags, ordinary = ids_of(tokenizer, *TAGS), tokenizer.wrapped._tokenizer.vocab_size
    assert tokenizer.vocab_size == max(tags) + 1
    assert tokenizer.needed_size == ordinary == min(tags)
