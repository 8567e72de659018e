"""Rows to examples: prompts, answers, the other columns, and what is refused."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.data import rows as made
from grpo_cli.data.answers import answer_from
from grpo_cli.data.conversation import conversation_from
from grpo_cli.data.rows import Row
from grpo_cli.errors import DataError
from grpo_cli.types import Example, Message


def examples_from(rows: list[dict[str, Any]], config: Config) -> list[Example]:
    """The rows as the lines of a file, as examples."""
    lines = [Row(values, "line", number, "sums.jsonl") for number, values in enumerate(rows, start=1)]
    return made.examples_from(lines, config.model_copy(update={"system_prompt": ""}), "train")


def messages_from(prompt: Any, place: str) -> list[Message]:
    """The conversation that a prompt is."""
    return conversation_from(prompt, place)[0]


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
        (True, "True"),
        (False, "False"),
        (["72"], "72"),
        ([3.0], "3.0"),
        (["a", "b"], '["a", "b"]'),
        ([1, 2], "[1, 2]"),
        (date(2024, 1, 5), "2024-01-05"),
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
        ([], "[]"),
        ({"value": 5}, "{'value': 5}"),
        ({"value": "a" * 100}, "{'value': '" + "a" * 68 + "…"),
        (b"72", "b'72'"),
        ([b"72", b"73"], "[b'72', b'73']"),
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
        ([{"role": "robot", "content": "x"}], "No conversation: P is [{'role': 'robot', 'content': 'x'}]"),
        ([{"role": "user", "content": None}], "No conversation: P is [{'role': 'user', 'content': None}]"),
        (  # nobody asks
            [{"role": "assistant", "content": "y"}],
            "No conversation: P is [{'role': 'assistant', 'content': 'y'}]",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            "No conversation: P is [{'role': 'user', 'content': [{'type': 'image'}]}]",
        ),
    ],
)
def test_prompts_of_another_type_are_refused(prompt: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        messages_from(prompt, "P")
    assert caught.value.message == message


def test_all_columns_go_to_the_rewards_as_they_are_and_none_for_those_a_row_lacks() -> None:
    rows = [
        {"question": "9 + 9?", "answer": 18, "level": 2, "tags": ["sum"]},
        {"question": "1?", "answer": 1},
    ]
    assert examples_from(rows, Config()) == [
        Example(messages=[{"role": "user", "content": "9 + 9?"}], answer="18", columns=rows[0]),
        Example(
            messages=[{"role": "user", "content": "1?"}],
            answer="1",
            columns={**rows[1], "level": None, "tags": None},
        ),
    ]


def test_only_a_text_is_a_text_prompt() -> None:
    messages = [{"role": "user", "content": "9 + 9?"}]
    rows = [{"question": messages, "answer": 18}, {"question": "9 + 9?", "answer": 18}]
    examples = examples_from(rows, Config())
    assert [example.messages for example in examples] == [messages, messages]
    assert [example.prompt_text for example in examples] == [None, "9 + 9?"]


def test_named_columns() -> None:
    rows = [{"problem": "9 + 9?", "solution": "#### 18", "answer": "long"}]
    config = Config(prompt_column="problem", answer_column="solution")
    assert examples_from(rows, config) == [
        Example(messages=[{"role": "user", "content": "9 + 9?"}], answer="18", columns=rows[0])
    ]


@pytest.mark.parametrize(
    ("columns", "key", "hint"),
    [
        ("questions answer", "prompt", 'did you mean `prompt_column = "questions"`? '),
        ("problem answer", "prompt", 'did you mean `prompt_column = "problem"`? '),
        ("solution messages", "prompt", 'did you mean `prompt_column = "messages"`? '),
        ("solution answer", "prompt", "set `prompt_column` to one of them: "),
        ("question solution", "answer", 'did you mean `answer_column = "solution"`? '),
        ("question ground_truth level", "answer", 'did you mean `answer_column = "ground_truth"`? '),
        ("question problem", "answer", "set `answer_column` to one of them: "),
    ],
)
def test_a_missing_column_is_answered_with_one_that_fits(columns: str, key: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        examples_from([dict.fromkeys(columns.split(), "x")], Config(dataset="sums.jsonl"))
    wanted = "question" if key == "prompt" else "answer"
    assert caught.value.message == f"Column not found: `{wanted}` in sums.jsonl, split `train`"
    without = '; for a dataset without answers `answer_column = ""`' if key == "answer" else ""
    assert caught.value.hint == f"{hint}its columns: {', '.join(columns.split())}{without}"


def test_a_row_that_cannot_be_used_is_named_with_its_file_and_split() -> None:
    with pytest.raises(DataError) as caught:
        examples_from([{"question": "a", "answer": "b"}, {"question": "a"}], Config(dataset="sums.jsonl"))
    assert caught.value.message == (
        "No answer: `answer` in line 2 of sums.jsonl, split `train`, is missing or null"
    )
