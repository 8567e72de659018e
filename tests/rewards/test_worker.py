"""Runs whose rewards are computed in other processes, or are async: the same run, and nothing left of it."""

from pathlib import Path

import pytest

from grpo_cli.engine.dry_run import dry_run
from grpo_cli.engine.evaluation.evaluate import evaluate_model
from grpo_cli.engine.resume import resume
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.train import train
from grpo_cli.errors import RewardError
from tests.support.interruptions import interrupt_after
from tests.support.reward_processes import left
from tests.support.small_runs import SHORT, log_without_times, small, weights

SOURCE = """
import asyncio, time

def words(completions): return [len(set(c[0]["content"])) / 10 for c in completions]

def plain(completions, **columns): return words(completions)

async def later(completions, **columns):
    await asyncio.sleep(0)
    return words(completions)

async def forever(completions, **columns):
    await asyncio.sleep(3600)

def slow(completions, **columns): time.sleep(3600)
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(SOURCE)
    return str(tmp_path / "mine.py")


def test_where_a_reward_runs_changes_nothing(mine: str, tmp_path: Path) -> None:
    runs = {"here": ("plain", 0), "there": ("plain", 2), "async": ("later", 0)}
    configs = {}
    for name, (reward, workers) in runs.items():
        settings = {**SHORT, "max_steps": 2, "reward_functions": [f"{mine}:{reward}"]}
        configs[name] = small(tmp_path, run_name=name, reward_workers=workers, **settings)
        train(configs[name])
        assert left() == []
    here, there, later = (config.run_dir for config in configs.values())
    assert weights(there) == weights(here)
    assert weights(later) == weights(here)
    assert log_without_times(there) == log_without_times(here)
    assert log_without_times(here)[0]["grad_norm"] > 0


@pytest.mark.parametrize("reward", ["plain", "later"])
def test_an_interrupted_run_leaves_no_process(reward: str, mine: str, tmp_path: Path) -> None:
    workers = 2 if reward == "plain" else 0
    settings = {**SHORT, "reward_functions": [f"{mine}:{reward}"], "reward_workers": workers}
    config = small(tmp_path, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt_after(2))
    assert left() == []
    resume(config.run_dir, ["max_steps=3"])
    assert left() == []


@pytest.mark.parametrize(("reward", "workers"), [("forever", 0), ("slow", 1)])
def test_a_reward_that_takes_too_long_ends_the_run(
    reward: str, workers: int, mine: str, tmp_path: Path
) -> None:
    settings = {"reward_functions": [f"{mine}:{reward}"], "reward_workers": workers, "reward_timeout": 0.5}
    with pytest.raises(RewardError) as error:
        train(small(tmp_path, **{**SHORT, **settings}))
    assert error.value.message == f"Reward `{reward}` did not answer within reward_timeout = 0.5 s"
    assert left() == []


def test_a_dry_run_and_an_evaluation_leave_nothing(mine: str, tmp_path: Path) -> None:
    settings = {"reward_functions": [f"{mine}:plain", f"{mine}:later"], "reward_workers": 1}
    config = small(tmp_path, eval_samples=2, **{**SHORT, **settings})
    dry_run(config)
    assert left() == []
    evaluate_model("tiny", config, Sampling(max_new_tokens=4))
    assert left() == []
