"""The date in a chat template is that of the run's start, as Llama 3.1, SmolLM3 and gpt-oss ask for it."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo_cli.errors import ModelError
from grpo_cli.models.load import load_tokenizer
from grpo_cli.models.tokenizer import ChatTokenizer
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
