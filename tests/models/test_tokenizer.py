"""The date in a chat template is that of the run's start, as Llama 3.1, SmolLM3 and gpt-oss ask for it."""

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo_cli.models.tokenizer import ChatTokenizer

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
