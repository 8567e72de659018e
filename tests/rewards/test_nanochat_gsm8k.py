"""nanochat's reward on GSM8K: texts scored by hand, and its rules on every genuine row."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.data.answers import answer_from
from grpo_cli.rewards.table import REWARDS

GSM8K = Path(__file__).parents[2] / "../shared/data/gsm8k"
needs_rows = pytest.mark.skipif(not GSM8K.exists(), reason="needs ../shared/data/gsm8k")


def reward(text: str, answer: str) -> float:
    """The reward of one completion in TRL's form."""
    [value] = REWARDS["nanochat_gsm8k"](
        prompts=["9 + 9?"], completions=[[{"role": "assistant", "content": text}]], answer=[answer]
    )
    return float(value)


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("9 + 9 = 18\n#### 18", "18", 1.0),
        ("#### 18", "18", 1.0),
        ("so #### 18 dollars", "18", 1.0),
        ("#### 18\n#### 19", "18", 1.0),  # the first one counts
        ("#### 19\n#### 18", "18", 0.0),
        ("#### none\n#### 18", "18", 1.0),  # the first with a number
        ("#### -3", "-3", 1.0),
        ("#### 3", "-3", 0.0),
        ("#### -3", "3", 0.0),
        ("#### 1,000", "1000", 1.0),
        ("#### 1000", "1,000", 1.0),
        ("#### 1,0,00,", "1000", 1.0),
        ("#### 0.5", "0.5", 1.0),
        ("##### 18", "18", 1.0),
        ("#### 18x", "18", 1.0),
        ("#### 18-3", "18", 1.0),
        ("#### 18%", "18", 1.0),
        # The spelling counts.
        ("#### 18.", "18", 0.0),
        ("#### 18.0", "18", 0.0),
        ("#### 18.00", "18", 0.0),
        ("#### 018", "18", 0.0),
        ("#### .5", "0.5", 0.0),
        ("#### -0", "0", 0.0),
        # No number.
        ("####18", "18", 0.0),
        ("####  18", "18", 0.0),
        ("####\n18", "18", 0.0),
        ("####\t18", "18", 0.0),
        ("#### $18", "18", 0.0),
        ("#### +18", "18", 0.0),
        ("#### - 18", "-18", 0.0),
        ("#### --18", "-18", 0.0),
        ("#### **18**", "18", 0.0),
        ("### 18", "18", 0.0),
        ("#### eighteen", "18", 0.0),
        ("#### ١٨", "18", 0.0),
        ("18", "18", 0.0),
        ("The answer is 18.", "18", 0.0),
        ("", "18", 0.0),
        ("#### ", "18", 0.0),
        ("#### ,", "18", 0.0),
        # A tool call after the marks, spelled out as in nanochat's texts.
        ("#### <|python_start|>9+9<|python_end|><|output_start|>18<|output_end|>", "18", 0.0),
        # An answer that is not a number.
        ("#### Paris", "Paris", 0.0),
        ("Paris", "Paris", 0.0),
        ("#### 18", "$18", 0.0),
        ("no number", "", 0.0),
    ],
)
def test_by_hand(text: str, answer: str, value: float) -> None:
    assert reward(text, answer) == value


def rows() -> list[dict[str, Any]]:
    """Every genuine row."""
    paths = [GSM8K / "train.jsonl", GSM8K / "test.jsonl"]
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def original(solution: str, completion: str) -> float:
    """The original's rules: the reference number is read after the last calculator annotation."""
    number = re.compile(r"#### (\-?[0-9\.\,]+)")
    last = solution[solution.rfind(">>") + 2 :] if ">>" in solution else solution
    wanted, got = (found and found[1].replace(",", "") for found in map(number.search, (last, completion)))
    return float(wanted == got)


@needs_rows
def test_genuine_rows_get_the_originals_reward() -> None:
    """Each solution and its variants, scored for its own question and the next one's."""
    solutions = [row["answer"] for row in rows()]
    assert len(solutions) == 8792
    for solution, following in zip(solutions, [*solutions[1:], solutions[0]], strict=True):
        answer = answer_from(solution, "`answer`")
        assert reward(solution, answer) == 1.0
        variants = [following, f"#### {answer}.", f"#### 1\n{solution}", solution.replace("#### ", "#### $")]
        for text in variants:
            assert reward(text, answer) == original(solution, text), (text, answer)
