"""Completions of a page: foreign text made harmless, right and wrong, and how many fit."""

import json
from pathlib import Path

import pytest

from grpo_cli.report.completions import LONGEST_TEXT, completions_of, cut, prompt_text, size_of
from tests.support.report_runs import HOSTILE, completion, run_of
from tests.support.run_logs import steps


def test_a_completion_with_its_prompt(tmp_path: Path) -> None:
    lines = (
        completion(1, "<answer>3</answer>"),
        completion(2, "four", rewards={"correctness": 0.0}, turns=2, tool_calls=1),
    )
    found = completions_of([run_of(tmp_path, steps(2), lines)])
    assert found["prompts"] == ["What is 1 + 2?"]
    first, second = found["rows"]
    assert first == {
        "run": 0, "step": 1, "prompt": 0, "answer": "3", "text": "<answer>3</answer>", "right": True,
        "rewards": {"correctness": 2.0}, "stop": "eos", "reward": 2.0, "advantage": 0.7, "tokens": 12.0,
    }  # fmt: skip
    assert (second["right"], second["turns"], second["tool_calls"]) == (False, 2.0, 1.0)


def test_the_reward_that_measures_decides_what_is_right(tmp_path: Path) -> None:
    lines = (completion(1, "3", rewards={"judge": 0.0}), completion(1, "x", rewards={"judge": 1.0}))
    run = run_of(tmp_path, steps(1), lines)
    run.settings["eval_reward"] = "judge"
    assert [row["right"] for row in completions_of([run])["rows"]] == [False, True]


def test_the_reward_for_right_answers_is_trusted_where_it_says_the_same(tmp_path: Path) -> None:
    lines = (
        completion(1, "<answer>3</answer>", rewards={"correctness": 2.0}),
        completion(1, "<answer>4</answer>", rewards={"correctness": 0.0}),
        completion(1, "it is 3", rewards={"correctness": 0.0}),  # right, without the tags
    )
    run = run_of(tmp_path, steps(1), lines, reward_functions=["correctness"])
    assert [row["right"] for row in completions_of([run])["rows"]] == [True, False, True]


def test_control_characters_become_visible(tmp_path: Path) -> None:
    found = completions_of([run_of(tmp_path, steps(1), tuple(completion(1, text) for text in HOSTILE))])
    texts = [row["text"] for row in found["rows"]]
    assert texts[0] == HOSTILE[0]  # HTML stays: the page shows it as text
    assert texts[4:] == [
        "␛[2J␛]0;owned␇ gone",
        "line\\u2028separator \\u2029 and <!-- comment",
        "\\u202egnirts\\u202c half � a pair",
    ]


def test_lines_of_other_shapes_are_left_out(tmp_path: Path) -> None:
    lines = (
        {"step": 1},
        {"completion": "x"},
        {"step": "1", "completion": "x"},
        {"step": 2, "completion": "y"},
    )
    found = completions_of([run_of(tmp_path, steps(2), lines)])
    (row,) = found["rows"]
    assert (row["text"], row["right"], row["reward"], row["rewards"], found["all"]) == (
        "y",
        None,
        None,
        {},
        4,
    )


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("plain", "plain"),
        ([{"role": "user", "content": "one"}], "one"),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "system: s\nuser: u"),
        ([{"role": "user", "content": [{"type": "text"}]}], '[{"type": "text"}]'),
        (7, ""),
    ],
)
def test_prompts_as_text(prompt: object, text: str) -> None:
    assert prompt_text(prompt) == text


def test_long_texts_are_cut_with_a_word() -> None:
    assert cut("a" * (LONGEST_TEXT + 1234)) == "a" * LONGEST_TEXT + "\n… (1,234 more characters)"


def test_beyond_the_room_whole_steps_are_left_out(tmp_path: Path) -> None:
    lines = tuple(completion(step, f"{step} " + "x" * 500) for step in range(1, 41) for _ in range(2))
    run = run_of(tmp_path, steps(40), lines)
    found = completions_of([run], room=12_000)
    kept = sorted({row["step"] for row in found["rows"]})
    assert kept == [1, *range(5, 41, 5)]  # every fifth from the end, and the first
    assert len(found["rows"]) == 2 * len(kept)
    assert found["all"] == 80
    assert size_of(found["rows"], found["prompts"]) <= 12_000
    json.dumps(found, allow_nan=False)
