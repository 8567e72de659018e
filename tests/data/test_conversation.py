"""Every shape of a prompt, and the system message before it."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples
from tests.support.datasets import ASKED, FORMATS, SAID, lines, put

PARTS = [{"type": "text", "text": "9 "}, {"type": "text", "text": "+ 9?"}]
RULE = {"role": "system", "content": "Be short."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "add"}}]}
RESULT = {"role": "tool", "content": "18", "tool_call_id": "1"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("9 + 9?", [ASKED]),
        ("\x00 \x1b[31m", [{"role": "user", "content": "\x00 \x1b[31m"}]),
        ([ASKED], [ASKED]),
        ([{"role": "user", "content": PARTS}], [ASKED]),
        ([{"role": "developer", "content": "Be short."}, ASKED], [RULE, ASKED]),
        ([{"from": "system", "value": "Be short."}, {"from": "human", "value": "9 + 9?"}], [RULE, ASKED]),
        ([{"from": "human", "value": "9 + 9?"}, {"from": "gpt", "value": "18"}], [ASKED]),
        ([ASKED, SAID], [ASKED]),
        ([RULE, ASKED, SAID, ASKED, SAID], [RULE, ASKED, SAID, ASKED]),
        ([ASKED, {**CALL, "content": None}, RESULT], [ASKED, CALL, RESULT]),
        ([ASKED, CALL, RESULT, SAID], [ASKED, CALL, RESULT]),
    ],
)  # fmt: skip
def test_every_shape_of_a_prompt(tmp_path: Path, prompt: Any, messages: Any, suffix: str) -> None:
    put(tmp_path / f"train{suffix}", FORMATS[suffix]([{"question": prompt, "answer": "18"}]))
    [example] = load_examples(Config(dataset=str(tmp_path), system_prompt=""), "train")
    assert (example.messages, example.answer) == (messages, "18")


@pytest.mark.parametrize(
    ("row", "keys", "messages"),
    [
        ({}, {}, [ASKED]),
        ({}, {"system_prompt": "Be short."}, [RULE, ASKED]),
        ({"system": "Be short."}, {"system_prompt": "Be long."}, [RULE, ASKED]),
        ({"system": None}, {"system_prompt": "Be short."}, [RULE, ASKED]),
        ({"system": "Be long."}, {"system_column": "", "system_prompt": "Be short."}, [RULE, ASKED]),
        ({"rule": "Be short."}, {"system_column": "rule"}, [RULE, ASKED]),
        ({"system": "Be long.", "question": [RULE, ASKED]}, {}, [RULE, ASKED]),
        ({"system": "Be long."}, {"prompt_format": "text", "system_prompt": "Be short."}, [ASKED]),
    ],
)
def test_the_system_message(tmp_path: Path, row: Any, keys: Any, messages: Any) -> None:
    put(tmp_path / "a.jsonl", lines([{"question": "9 + 9?", "answer": 18, **row}]))
    [example] = load_examples(
        Config(**{"dataset": str(tmp_path / "a.jsonl"), "system_prompt": "", **keys}), "train"
    )
    assert example.messages == messages
