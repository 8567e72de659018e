"""Rows to examples: prompts, answers, the other columns, and what is refused."""

from decimal import Decimal
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.data.rows import answer_from, examples_from, messages_from
from grpo_cli.errors import DataError
from grpo_cli.types import Example


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("48 + 24 = <<48+24=72>>72 clips\n#### 72", "72"),
        ("#### 1 is wrong\n#### 2", "2"),
        ("#### 1,000", "1,000"),
        ("#### $18", "$18"),
        ("####18.0\n", "18.0"),
        ("#### -3", "-3"),
        ("#### −3", "−3"),
        (" Paris ", "Paris"),
        (18, "18"),
        (-3, "-3"),
        (18.0, "18.0"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (Decimal("1.50"), "1.50"),
    ],
)
def test_answers(raw: Any, answer: str) -> None:
    assert answer_from(raw, "`answer` in row 1") == answer


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, "missing or null"),
        ("", "''"),
        ("see above ####  ", "'see above ####  '"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (True, "True"),
        (["a"], "['a']"),
        (["a" * 100], "['" + "a" * 77 + "…"),
    ],
)
def test_rows_without_a_usable_answer_are_refused(raw: Any, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        answer_from(raw, "`answer` in row 7 of x.jsonl")
    assert caught.value.message == f"No answer: `answer` in row 7 of x.jsonl is {shown}"


def test_prompts_are_texts_or_conversations() -> None:
    assert messages_from("9 + 9?", "") == [{"role": "user", "content": "9 + 9?"}]
    chat = [
        {"role": "system", "content": "Be short.", "name": None},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "9 + 9?"},
    ]
    assert messages_from(chat, "") == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "9 + 9?"},
    ]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "No prompt: P is missing or null"),
        (" \n", "No prompt: P is ' \\n'"),
        (18, "No prompt: P is 18"),
        ([], "No prompt: P is []"),
        (["hello"], "No conversation: P is ['hello']"),
        ([{"role": "human", "content": "x"}], "No conversation: P is [{'role': 'human', 'content': 'x'}]"),
        ([{"role": "user", "content": None}], "No conversation: P is [{'role': 'user', 'content': None}]"),
        (  # it would give the answer away
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            "No conversation: P is [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': 'y'}]",
        ),
    ],
)
def test_prompts_of_another_type_are_refused(prompt: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        messages_from(prompt, "P")
    assert caught.value.message == message


def test_the_other_columns_go_to_the_rewards() -> None:
    rows = [
        {"question": "9 + 9?", "answer": 18, "level": 2, "tags": ["sum"]},
        {"question": "1?", "answer": 1},
    ]
    assert examples_from(rows, Config()) == [
        Example([{"role": "user", "content": "9 + 9?"}], "18", {"level": 2, "tags": ["sum"]}),
        Example([{"role": "user", "content": "1?"}], "1", {}),
    ]


def test_named_columns() -> None:
    rows = [{"problem": "9 + 9?", "solution": "#### 18", "answer": "long"}]
    config = Config(prompt_column="problem", answer_column="solution")
    assert examples_from(rows, config) == [
        Example([{"role": "user", "content": "9 + 9?"}], "18", {"answer": "long"})
    ]


def test_a_missing_column_lists_those_that_exist() -> None:
    with pytest.raises(DataError) as caught:
        examples_from([{"questions": "a"}, {"answer": "b"}], Config(dataset="sums.jsonl"))
    assert caught.value.message == "Column not found: `question` in sums.jsonl"
    assert caught.value.hint == ('did you mean `prompt_column = "questions"`? its columns: questions, answer')
    with pytest.raises(DataError) as caught:
        examples_from([{"question": "a", "label": "b"}], Config(dataset="sums.jsonl"))
    assert caught.value.message == "Column not found: `answer` in sums.jsonl"
    assert caught.value.hint == "set `answer_column` to one of them: its columns: question, label"


def test_a_row_that_cannot_be_used_is_counted_from_one() -> None:
    with pytest.raises(DataError) as caught:
        examples_from([{"question": "a", "answer": "b"}, {"question": "a"}], Config(dataset="sums.jsonl"))
    assert caught.value.message == "No answer: `answer` in row 2 of sums.jsonl is missing or null"
