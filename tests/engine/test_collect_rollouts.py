"""Advantages as configured, and rewards that begin while others are still sampled."""

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine import events, setup
from grpo_cli.engine.collect_rollouts import set_advantages
from grpo_cli.engine.grpo.advantages import decoupled_advantages
from grpo_cli.engine.rollout.buffer import is_informative
from grpo_cli.engine.rollout.sampling import KeyChain
from grpo_cli.engine.run import Run
from grpo_cli.engine.train import train
from grpo_cli.errors import TrainingError
from grpo_cli.rewards.score import Scorer
from tests.support.random_models import group, rollout
from tests.support.reward_processes import left
from tests.support.small_runs import lines, small
from tests.support.steps import scored_groups
from tests.support.waiting import HANG, NEVER

# --- advantages -----------------------------------------------------------------------------------


# Rewards [1, 0, 0, 1] and [0, 0, 0, 1]: means 1/2 and 1/4, standard deviations √(1/3) and 1/2,
# and √(15/56) of all eight.
CENTERED = [[0.5, -0.5, -0.5, 0.5], [-0.25, -0.25, -0.25, 0.75]]
SCALES = {
    ("dapo", "group"): [math.sqrt(1 / 3) + 1e-4, 0.5 + 1e-4],
    ("dapo", "batch"): [math.sqrt(15 / 56) + 1e-4] * 2,
    ("dapo", "none"): [1.0, 1.0],
    ("grpo", "group"): [math.sqrt(1 / 3) + 1e-4, 0.5 + 1e-4],
    ("dr_grpo", "none"): [1.0, 1.0],
    ("reinforce", "group"): [1.0, 1.0],
    ("reinforce", "batch"): [1.0, 1.0],
}


@pytest.mark.parametrize(("loss_type", "scale_rewards"), list(SCALES))
def test_advantages_are_scaled_as_configured(run: Run, loss_type: str, scale_rewards: str) -> None:
    config = run.config.model_copy(update={"loss_type": loss_type, "scale_rewards": scale_rewards})
    groups = [group([1], [rollout([2]) for _ in range(4)]) for _ in range(2)]
    for one, rewards in zip(groups, [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]], strict=True):
        for item, reward in zip(one.rollouts, rewards, strict=True):
            item.reward = reward
    set_advantages(groups, config)
    for one, centered, scale in zip(groups, CENTERED, SCALES[loss_type, scale_rewards], strict=True):
        expected = [value / scale for value in centered]
        assert [item.advantage for item in one.rollouts] == pytest.approx(expected, rel=1e-6)


def test_the_configured_estimator_sets_the_advantages(run: Run) -> None:
    """A group of equal rewards learns with the batch as its baseline: mean 1/2, std √(1/3)."""
    config = run.config.model_copy(update={"advantage_estimator": "reinforce_plus_plus"})
    groups = [group([1], [rollout([2]) for _ in range(2)]) for _ in range(2)]
    for item in groups[0].rollouts:
        item.reward = 1.0
    set_advantages(groups, config)
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert [item.advantage for item in groups[0].rollouts] == pytest.approx([expected] * 2)
    assert [item.advantage for item in groups[1].rollouts] == pytest.approx([-expected] * 2)


def test_each_reward_can_be_normalized_before_the_sum(run: Run) -> None:
    """Two rewards and the overlong penalty, whose weight is 1, against the formula on the same table."""
    config = run.config.model_copy(
        update={
            "reward_functions": ["a", "b"],
            "reward_weights": [2.0, 0.5],
            "multi_objective_aggregation": "normalize_then_sum",
            "soft_overlong_tokens": 4,
        }
    )
    table = [[1.0, 5.0, 0.0], [0.0, None, -0.5], [1.0, 9.0, -1.0]]
    one = group([1], [rollout([2]) for _ in table])
    for item, (a, b, penalty) in zip(one.rollouts, table, strict=True):
        item.rewards = {"a": a, "b": b, "soft_overlong": penalty}
        item.reward = 7.0  # the weighted sum decides nothing
    set_advantages([one], config)
    [expected] = decoupled_advantages([table], [2.0, 0.5, 1.0])
    assert [item.advantage for item in one.rollouts] == expected
    assert is_informative(one, config.decoupled_weights)
    assert not is_informative(one)


@pytest.mark.parametrize(("aggregation", "batches"), [("sum_then_normalize", 2), ("normalize_then_sum", 1)])
def test_dynamic_sampling_keeps_what_has_an_advantage(tmp_path: Path, aggregation: str, batches: int) -> None:
    """2 · n and −2 · n cancel; normalized they are 2 · z and −z, which do not."""
    (tmp_path / "both.py").write_text(
        "def up(completions, **columns): return [float(len(c)) for c in completions]\n"
        "def down(completions, **columns): return [-2.0 * len(c) for c in completions]\n"
    )
    config = small(
        tmp_path,
        reward_functions=[f"{tmp_path}/both.py:up", f"{tmp_path}/both.py:down"],
        reward_weights=[2.0, 1.0],
        multi_objective_aggregation=aggregation,
        dynamic_sampling=True,
        dynamic_sampling_budget=2,
        max_steps=1,
    )
    train(config)
    [line] = lines(config.run_dir)
    assert (line["rollout_batches"], line["zero_std_fraction"]) == (batches, float(batches - 1))
    assert line["reward_mean"] == 0.0


# --- rewards that begin early ---------------------------------------------------------------------


def trainer_of(tmp_path: Path, listener: Any = events.silent, **changes: Any) -> Run:
    """Four groups of two completions of a sampler that ends some early."""
    settings = {"num_generations": 2, "batch_size": 4, "temperature": 2.0, "max_new_tokens": 120}
    run = setup.prepare(small(tmp_path, **{**settings, **changes}), listener)
    run.random = KeyChain.of_seed(1)  # with which groups end at different tokens
    return run


def test_a_reward_begins_before_the_last_token_of_the_others(tmp_path: Path) -> None:
    """The sampler is held until a reward has begun: were it to begin at the end, it never would."""
    order: list[str] = []
    begun = threading.Event()

    async def judge(completions: Any, **columns: Any) -> list[float]:
        del columns
        order.append(f"reward of {len(completions)}")
        begun.set()
        await asyncio.sleep(0)
        return [float(len(completion[0]["content"])) for completion in completions]

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RolloutProgress) and event.finished >= 6:
            if event.finished < event.total:
                assert begun.wait(HANG)
            order.append(f"{event.finished} of {event.total}")

    run = trainer_of(tmp_path, listen)
    run.scorer = Scorer([("judge", judge)], [1.0])
    groups = scored_groups(run)
    run.close()
    assert order.count("reward of 2") == 4  # whole groups
    assert order.index("reward of 2") < order.index("8 of 8")
    for one in groups:
        assert [item.reward for item in one.rollouts] == [float(len(item.text)) for item in one.rollouts]


def test_plain_rewards_see_the_whole_batch_at_the_end(tmp_path: Path) -> None:
    order: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RolloutProgress):
            order.append(f"{event.finished} of {event.total}")

    def plain(completions: Any, **columns: Any) -> list[float]:
        del columns
        order.append(f"reward of {len(completions)}")
        return [0.0] * len(completions)

    run = trainer_of(tmp_path, listen)
    run.scorer = Scorer([("plain", plain)], [1.0])
    scored_groups(run)
    assert order[-2:] == ["8 of 8", "reward of 8"]


def test_nothing_is_left_after_an_error_in_sampling(tmp_path: Path) -> None:
    """A policy that breaks while a reward is running."""
    begun = threading.Event()

    async def forever(**columns: Any) -> list[float]:
        del columns
        begun.set()
        await asyncio.sleep(NEVER)
        return []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RolloutProgress) and event.finished > event.total // 2:
            assert begun.wait(HANG)
            weight = run.policy.model.parameters()["lm_head"]["weight"]
            run.policy.model.load_weights([("lm_head.weight", weight * float("nan"))], strict=False)

    run = trainer_of(tmp_path, listen)
    run.scorer = Scorer([("forever", forever)], [1.0])
    with pytest.raises(TrainingError, match=r"NaN in the weight lm_head\.weight"):
        scored_groups(run)
    assert left() == []


def test_what_an_early_reward_prints_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def chatty(completions: Any, **columns: Any) -> list[float]:
        del columns
        print("hello")
        return [0.0] * len(completions)

    run = trainer_of(tmp_path)
    run.scorer = Scorer([("chatty", chatty)], [1.0])
    scored_groups(run)
    run.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("hello") == 4
