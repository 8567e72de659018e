"""The doctor on runs that were made for it: one that learns, and four that cannot."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.train import train
from tests.support.run_logs import NAMES, examine, troubles
from tests.support.small_runs import small


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs: one that learns, and four with a trouble each."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mine.py").write_text(
        "def never(completions, **columns):\n    return [0.0] * len(completions)\n"
    )
    learns = {"lora_rank": 8, "learning_rate": 1e-3, "eval_steps": 10, "eval_samples": 40}
    learns["temperature"] = 1.2  # at 1.0 the last groups are too sure to differ
    train(small(folder, run_name="learns", max_steps=20, **learns))
    short: dict[str, Any] = {"max_steps": 6, "batch_size": 2, "eval_steps": 6, "eval_samples": 8}
    train(small(folder, run_name="zero", reward_functions=[f"{folder}/mine.py:never"], **short))
    train(small(folder, run_name="rate", learning_rate=10.0, **short))
    train(small(folder, run_name="cold", temperature=0.001, **short))
    train(small(folder, run_name="two", max_new_tokens=2, **short))
    yield folder


def test_a_run_that_learns_gets_no_warning(runs: Path) -> None:
    found = examine(runs / "learns")
    assert list(found) == NAMES
    assert troubles(found) == {}
    assert found["run-log"].numbers == {"steps": 20, "evaluations": 3, "broken_lines": 0}
    assert found["collapse"].numbers["accuracies"][-1] > 0.9
    assert found["kl-high"].severity == "skipped"
    assert found["repetition"].numbers["repetition"] < 0.05
    split = found["time-split"].numbers
    parts = split["rollouts_seconds"] + split["update_seconds"] + split["rest_seconds"]
    assert parts == pytest.approx(split["step_seconds"], rel=1e-6)


def test_a_reward_that_is_always_zero_is_named_with_a_completion(runs: Path) -> None:
    found = examine(runs / "zero")
    zero = found["rewards-zero"]
    assert troubles(found) == {"rewards-zero": "error", "nothing-to-learn": "warning"}
    assert zero.seen == "the mean reward is 0 in all 6 steps: rewards/never 0"
    assert zero.commands[:2] == ("num_generations = 16", "max_new_tokens = 128")
    functions = [f"{runs}/mine.py:never", "int", "strict_format", "soft_format", "xmlcount"]
    assert zero.commands[2] == f"reward_functions = {json.dumps(functions)}"
    last = json.loads((runs / "zero" / "completions.jsonl").read_text().splitlines()[-1])
    assert zero.commands[3] == "# " + shlex.quote(
        f"step 6, reward 0, right answer {last['answer']}: {last['completion']}"
    )
    evaluation = f"grpo eval --model tiny --config {runs}/zero/config.toml --num-generations 8"
    assert zero.commands[4] == evaluation
    assert zero.why.startswith("If all completions get no reward, they have equal advantages")


def test_a_learning_rate_of_ten_is_named(runs: Path) -> None:
    found = examine(runs / "rate")
    wrong = troubles(found)
    assert wrong.pop("collapse") == "error"
    assert set(wrong) <= {"rewards-zero", "nothing-to-learn", "truncation", "grad-norm-high", "nan-gradient"}
    assert found["collapse"].cure == "learning_rate = 10 is the cause: usual values are below 0.001"
    assert found["collapse"].commands[0] == "learning_rate = 5e-06"
    for name in wrong:
        assert "learning_rate = 10 is the cause" in found[name].cure


def test_a_temperature_near_zero_is_named(runs: Path) -> None:
    found = examine(runs / "cold")
    assert troubles(found) == {"identical-completions": "error", "nothing-to-learn": "warning"}
    cold = found["identical-completions"]
    assert cold.seen.endswith(
        "nats a token in the last 5 steps at temperature 0.001; 12 of 12 logged groups are the same text "
        "throughout"
    )
    assert cold.commands == ("temperature = 0.7",)
    assert cold.numbers["entropy"] < 0.001
    assert found["nothing-to-learn"].commands == ("temperature = 0.7",)


def test_two_new_tokens_are_named(runs: Path) -> None:
    found = examine(runs / "two")
    wrong = troubles(found)
    assert wrong == {"truncation": "error", "rewards-zero": "error", "nothing-to-learn": "warning"}
    assert found["rewards-zero"].cure == (
        "no completion reaches its answer: 100 % are cut off. Raise max_new_tokens first; the rest may "
        "not be needed"
    )
    assert found["nothing-to-learn"].cure == "all of them are 0: the fix for `rewards-zero` applies here"
    cut = found["truncation"]
    assert cut.seen == "100 % of the completions of the last 5 steps are cut off by max_new_tokens = 2"
    assert cut.commands == ("max_new_tokens = 128", "grpo doctor --only end-tokens --model tiny")
