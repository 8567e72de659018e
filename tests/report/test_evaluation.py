"""The page of an evaluation: its sentences, its scores, and both models' completions side by side."""

import json
import re
from typing import Any

from grpo_cli.report.evaluation import evaluation_page, score_rows, sentences_of
from tests.support.report_runs import HOSTILE

CARD: dict[str, Any] = {
    "accuracy": 0.75, "accuracy_interval": [0.3006, 0.9544], "samples": 4, "correct": 3, "completions": 4,
    "pass_at_k": {"1": 0.75}, "format": 1.0, "length_mean": 12.25, "truncated_fraction": 0.0,
    "rewards": {"correctness": {"mean": 1.5}, "judge": {"mean": None}}, "seconds": 3.2,
}  # fmt: skip
DOCUMENT = {
    "model": "a",
    "dataset": "arithmetic",
    "split": "test",
    "num_generations": 1,
    "temperature": 0.0,
    **CARD,
}
COMPARED = DOCUMENT | {
    "compared_model": "b",
    "compared": CARD | {"accuracy": 0.25, "correct": 1},
    "comparison": {
        "accuracy_difference": 0.5, "interval": [0.0, 1.0], "p": 0.5, "verdict": "no significant difference",
        "only_model_right": 2, "only_compared_right": 0,
    },
}  # fmt: skip


def line(item: int, text: str, correct: bool) -> dict[str, Any]:
    return {
        "item": item, "prompt": [{"role": "user", "content": f"What is {item} + 1?"}], "answer": "3",
        "completion": text, "correct": correct, "rewards": {"correctness": 2.0 * correct},
        "stop_reason": "eos", "tokens": 5,
    }  # fmt: skip


def test_the_sentence_of_one_model() -> None:
    assert sentences_of(DOCUMENT, ["a"]) == [
        ("a solves 75.0 % of 4 problems (95 % interval 30–95).", "plain")
    ]


def test_the_sentence_of_two_models() -> None:
    assert sentences_of(COMPARED, ["a", "b"])[1] == (
        "a against b: no significant difference, +50.0 points (95 %: +0.0 to +100.0; p = 0.500). Only the "
        "first solves 2 problems, only the second 0.",
        "plain",
    )


def test_scores_side_by_side() -> None:
    rows = {row["name"]: row["values"] for row in score_rows([COMPARED, COMPARED["compared"]])}
    assert rows["accuracy"] == ["75.0 % (3 of 4)", "25.0 % (1 of 4)"]
    assert (rows["reward correctness"], rows["reward judge"]) == (["1.500", "1.500"], ["–", "–"])
    assert rows["mean length"] == ["12.2 tokens", "12.2 tokens"]


def test_the_completions_of_both_models_share_their_prompts() -> None:
    lines = {"a": [line(0, HOSTILE[0], True)], "b": [line(0, HOSTILE[2], False)]}
    page = evaluation_page(COMPARED, lines)
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    completions = json.loads(found[1])["completions"]
    rows = [dict(zip(completions["fields"], row, strict=False)) for row in completions["rows"]]
    assert [(row["run"], row["prompt"], row["text"], row["right"]) for row in rows] == [
        (0, 0, HOSTILE[0], True),
        (1, 0, HOSTILE[2], False),
    ]
    assert '<option value="gained">only a right</option>' in page
    assert "<script>alert" not in page
    assert "Data: arithmetic, split test; 1 completion per problem, greedy." in page
