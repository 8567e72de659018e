"""Reward files in the shapes of public TRL scripts, run without a change: values by hand, and a whole run.

The files are in tests/support/trl_rewards: regular expressions, tag counts, a factory with a cosine, `async
def`, math_verify, trainer_state, an object, functools.partial, columns as keywords, None for other tasks.
"""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.train import train
from grpo_cli.rewards.score import Scorer
from grpo_cli.rewards.table import load_rewards
from grpo_cli.types import RolloutGroup
from tests.support.reward_groups import group
from tests.support.small_runs import lines, small

FOLDER = Path(__file__).parents[1] / "support" / "trl_rewards"
TEXTS = [
    "<think>\n9 plus 9\n</think>\n<answer>\n9 + 9\n</answer>",
    "The sum is 18. The sum is 18.",
    "<think>x</think> <answer>3 * 4</answer>",
    "def f(): return 12",
]
LENGTHS = [4, 8, 2, 16]  # tokens
SUM = {"solution": "$18$", "target": 18, "nums": [9, 9], "task": "math"}
CODE = {"solution": "see the text", "target": 12, "nums": [3, 4], "task": "coding"}
COSINE = -0.5 - 0.25 * (1 + math.sqrt(0.5))  # a wrong answer of a quarter of the length: cos 45°

# math_verify computes `9 + 9`; the comparison of scripts without it reads the last number.
COMPUTED = float(find_spec("math_verify") is not None)

# Bigrams of the second text: 7, of which 4 differ.
EXPECTED: dict[str, list[float | None]] = {
    "think_format.py:think_format_reward": [1.0, 0.0, 1.0, 0.0],
    "tag_count.py:tag_count_reward": [1.0, 0.0, 0.0, 0.0],
    "cosine_length.py:cosine_scaled_reward": [-0.75, 0.5, COSINE, 0.5],
    "async_lookup.py:async_reward_func": [0.0, 1.0, 0.0, 0.25],
    "math_accuracy.py:accuracy_reward": [COMPUTED, 1.0, None, None],
    "length_schedule.py:length_reward": [-0.025 * abs(20 - len(text)) for text in TEXTS],
    "callable_class.py:keyword_reward": [0.0, 0.3, 0.0, 0.0],
    "repetition_partial.py:repetition_penalty": [0.0, -3 / 7, 0.0, 0.0],
    "countdown.py:equation_reward_func": [1.0, 0.0, 1.0, 0.0],
    "by_task.py:math_reward_func": [-1.0, 1.0, None, None],
    "by_task.py:coding_reward_func": [None, None, -1.0, 1.0],
}
SPECS = [f"{FOLDER}/{name}" for name in EXPECTED]


def groups(is_text: bool) -> list[RolloutGroup]:
    """Two rows with two completions each; their prompts are texts or lists of messages."""
    found = [group("9 + 9?", "18", TEXTS[:2], **SUM), group("Write f", "12", TEXTS[2:], **CODE)]
    rollouts = [rollout for one in found for rollout in one.rollouts]
    for rollout, length in zip(rollouts, LENGTHS, strict=True):
        rollout.token_ids = [1] * length
    for one in found if is_text else []:
        object.__setattr__(one.example, "prompt_text", one.example.messages[-1]["content"])
    return found


def test_there_are_ten_files() -> None:
    files = sorted(path.name for path in FOLDER.glob("*.py"))
    assert len(files) == 10
    assert {name.partition(":")[0] for name in EXPECTED} == set(files)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_text", [False, True], ids=["messages", "text"])
def test_each_gives_the_values_that_it_gives_there(is_text: bool, workers: int) -> None:
    found = groups(is_text)
    with Scorer(load_rewards(SPECS), [1.0] * len(SPECS), 120.0, workers, SPECS) as scorer:
        pending = scorer.start(found)
        pending.result()
    rollouts = [rollout for one in found for rollout in one.rollouts]
    for name, values in EXPECTED.items():
        given = [rollout.rewards[name.partition(":")[2]] for rollout in rollouts]
        assert given == pytest.approx(values, abs=1e-12), name  # None is equal to None alone
    for rollout, row in zip(rollouts, zip(*EXPECTED.values(), strict=True), strict=True):
        assert rollout.reward == pytest.approx(sum(value for value in row if value is not None))
    parsed = [rollout.extra["gold_parsed"] for rollout in rollouts]
    assert parsed == ["18", "18", "[unparseable]", "[unparseable]"]


def test_a_run_trains_with_all_of_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": [{"role": "user", "content": "9+9="}], "answer": "18", **SUM},
        {"question": [{"role": "user", "content": "3*4="}], "answer": "12", **CODE},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    config = small(
        tmp_path, dataset=str(data), reward_functions=SPECS, num_generations=4, reward_timeout=120.0,
        log_completions=16,
    )  # fmt: skip
    train(config)
    log = lines(config.run_dir)
    assert len(log) == 2
    for line in log:
        names = {name.partition(":")[2] for name in EXPECTED}
        assert {key.removeprefix("rewards/") for key in line if key.startswith("rewards/")} == names
        assert line["reward_mean"] is not None
        assert "unscored_fraction" not in line
    samples = [json.loads(text) for text in (config.run_dir / "completions.jsonl").read_text().splitlines()]
    for sample in samples:
        assert (sample["rewards"]["math_reward_func"] is None) == (sample["answer"] == "12")
        assert (sample["rewards"]["coding_reward_func"] is None) == (sample["answer"] == "18")
        assert sample["gold_parsed"] == ("18" if sample["answer"] == "18" else "[unparseable]")
    # weights change with the steps: 0.5 at first, then 0.75
    lengths = [len(sample["completion"]) for sample in samples if sample["step"] == 2]
    given = [sample["rewards"]["length_reward"] for sample in samples if sample["step"] == 2]
    assert given == pytest.approx([-0.75 * abs(20 - length) / 20 for length in lengths])
