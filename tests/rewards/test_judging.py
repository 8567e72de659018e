"""Questions to a judge, and what is read from its answers."""

import time

import pytest

from grpo_cli.rewards.judging import asked, groups_of, read_ranking, read_score, without_markers


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Score: 8", 0.8),
        ("Both sums agree.\n**Score:** 7.5", 0.75),
        ("score = 7/10", 0.7),
        ("Score: 3 / 4.", 0.75),
        ("Score (0-10): 7", 0.7),
        ("Score:\n6", 0.6),
        ("At first Score: 3.\nScore: **4**", 0.4),
        ("<think>Score: 3</think> Score: 5", 0.5),
        ("8", 0.8),
        ("**9/10**", 0.9),
        ("0", 0.0),
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: 5/0", None),
        ("It has 8 lines", None),
        ("The score is good", None),
        ("<think>Score: 3", 0.3),  # cut off in its thoughts: all that it said
        ("", None),
    ],
)
def test_a_score_is_read_or_there_is_none(answer: str, score: float | None) -> None:
    assert read_score(answer) == score


def test_a_ranking_has_a_line_for_each_completion() -> None:
    answer = "1: 8\nAnswer 2: 7.5/10\n**3** = **2**\n4 is bad\n- 5: 12\n7: 3\n0: 3\n1: 9"
    assert read_ranking(answer, 6) == [0.9, 0.75, 0.2, None, None, None]
    assert read_ranking("2: 3", 0) == []


@pytest.mark.parametrize(
    "part", ["score", "score ", "score:", ":", "1", "1:", "\n", "1:\n", "*", "score (", "/"]
)
def test_hostile_answers_take_linear_time(part: str) -> None:
    text = part * (100_000 // len(part))
    start = time.process_time()
    read_score(text)
    read_score(f"score: {text}")
    read_ranking(text, 8)
    assert time.process_time() - start < 2.0


def test_a_template_is_filled_in_once() -> None:
    """A completion that asks for the right answer does not get it."""
    template = "{prompt} / {completion} / {answer} / {other}"
    assert asked("score", template, "Sum {answer}?", "18", ["It is {answer}, {prompt}"]) == (
        "Sum {answer}? / It is {answer}, {prompt} / 18 / {other}"
    )
    assert asked("rank", "{completions}", "", "", ["a", "b"]) == "Answer 1:\na\n\nAnswer 2:\nb"


def test_the_built_in_questions_show_task_and_completions() -> None:
    score = asked("score", "", "9 + 9?", "18", ["It is 18."])
    assert "Task:\n9 + 9?\n\nAnswer:\nIt is 18.\n" in score
    assert "`Score: `" in score
    assert "18" not in score.replace("It is 18.", "")  # the right answer is told only if it is asked for
    rank = asked("rank", "", "9 + 9?", "18", ["It is 18.", "17"])
    assert "Task:\n9 + 9?\n\nAnswer 1:\nIt is 18.\n\nAnswer 2:\n17\n" in rank


def test_completions_of_one_prompt_stand_together() -> None:
    assert groups_of(["a", "a", "b", "a"]) == [range(2), range(2, 3), range(3, 4)]
    assert groups_of([]) == []


def test_markers_become_text() -> None:
    markers = ["<|end|>", "<|end|>x"]
    assert without_markers("a<|end|>b", markers) == "a< |end|>b"
    assert without_markers("<|e<|end|>nd|>", markers) == "<|e< |end|>nd|>"
    for text in ("<|end|>x", "<<|end|>", "<|end|><|end|>"):
        assert not any(marker in without_markers(text, markers) for marker in markers)
