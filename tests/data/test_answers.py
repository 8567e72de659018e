"""Every shape of an answer, and an assistant's last message in its place."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples
from grpo_cli.errors import DataError
from tests.support.datasets import ASKED, SAID, lines, loaded, put, typed


@pytest.mark.parametrize(
    ("row", "column", "answer"),
    [
        ({"reward_model": {"ground_truth": "18", "style": "rule"}}, "reward_model.ground_truth", "18"),
        ({"reward_model": {"ground_truth": {"target": ["a"]}}}, "reward_model.ground_truth.target", "a"),
        ({"info": '{"ground_truth": "18"}'}, "info.ground_truth", "18"),
        ({"info": '{"ground_truth": "[1, 2]"}'}, "info.ground_truth", "[1, 2]"),
        ({"answers": ["a", "b"]}, "answers", '["a", "b"]'),
        ({"answers": ["a", "b"]}, "answers.1", "b"),
        ({"a.b": "18", "a": {"b": "19"}}, "a.b", "18"),
        ({"label": True}, "label", "True"),
        ({"label": 0}, "label", "0"),
        ({"answer": "18"}, "", ""),
    ],
)
def test_every_shape_of_an_answer(tmp_path: Path, row: Any, column: str, answer: str) -> None:
    put(tmp_path / "a.jsonl", lines([{"question": "9 + 9?", **row}]))
    [example] = load_examples(Config(dataset=str(tmp_path / "a.jsonl"), answer_column=column), "train")
    assert example.answer == answer
    assert typed([example.columns]) == typed([{"question": "9 + 9?", **row}])


def test_an_object_is_no_answer_and_the_hint_names_what_is_in_it(tmp_path: Path) -> None:
    row = {"question": "a", "reward_model": {"style": "rule", "ground_truth": "1"}}
    put(tmp_path / "a.jsonl", lines([row]))
    with pytest.raises(DataError) as caught:
        loaded(tmp_path / "a.jsonl", "train", answer_column="reward_model")
    assert caught.value.hint == 'name one of its values: `answer_column = "reward_model.style"`'
    with pytest.raises(DataError) as caught:
        loaded(tmp_path / "a.jsonl", "train")
    assert caught.value.hint.startswith('did you mean `answer_column = "reward_model.ground_truth"`?')


def test_the_assistants_last_message_is_the_answer_where_there_is_no_column(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", lines([{"messages": [ASKED, SAID]}, {"messages": [ASKED]}]))
    told: list[str] = []
    config = Config(dataset=str(tmp_path / "a.jsonl"), prompt_column="messages", max_train_samples=1)
    [example] = load_examples(config, "train", told.append)
    assert (example.messages[1:], example.answer) == ([ASKED], "18")
    assert told == [
        "split `train`: there is no column `answer`, so the assistant's last message in `messages` is the "
        "answer and not part of the prompt"
    ]
    with pytest.raises(DataError) as caught:
        loaded(tmp_path / "a.jsonl", "train", prompt_column="messages")
    assert caught.value.message == (
        f"No answer: the assistant's last message in `messages` in line 2 of {tmp_path}/a.jsonl, "
        "split `train`, is missing or null"
    )
