"""Rewards that begin while others are still sampled: the order recorded, the same numbers, nothing left."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine import events, setup
from grpo_cli.engine.memory.out_of_memory import RowLimit
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import KeyChain, Sampling
from grpo_cli.engine.run import Run
from grpo_cli.errors import RewardError, TrainingError
from grpo_cli.models.load import Policy
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.rewards.score import PendingScores, Scorer
from grpo_cli.types import Rollout
from tests.support.random_models import nanochat_policy
from tests.support.reward_groups import group
from tests.support.reward_processes import left
from tests.support.small_runs import small
from tests.support.steps import scored_groups
from tests.support.waiting import HANG, NEVER

PROMPTS = [list(b"one"), list(b"a much longer prompt"), list(b"z"), list(b"four")]


def early_ending() -> Policy:
    policy = nanochat_policy()
    policy.tokenizer.eos_ids = frozenset(range(245, 257))  # type: ignore[misc]
    return policy


# --- groups are handed over as they end ------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, 3])
def test_each_group_is_handed_over_once_with_its_last_token(rows: int | None) -> None:
    """Those that end early before the others' last tokens, with what comes out in the end."""
    handed: list[tuple[int, int, list[Rollout]]] = []
    tokens = 0

    def progress(ended: int, total: int, count: int) -> None:
        nonlocal tokens
        del ended, total
        tokens = count

    mx.random.seed(5)
    groups = generate(
        early_ending(), PROMPTS, 3, Sampling(max_new_tokens=60), progress, limit=RowLimit(rows),
        on_group=lambda place, rollouts: handed.append((place, tokens, rollouts)),
    )  # fmt: skip
    assert sorted(place for place, _, _ in handed) == [0, 1, 2, 3]
    assert all(rollouts is groups[place] for place, _, rollouts in handed)
    assert handed[0][1] < 0.8 * tokens
    assert [count for _, count, _ in handed] == sorted(count for _, count, _ in handed)


def test_a_group_that_had_ended_is_not_handed_over_again_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = early_ending()
    handed: list[int] = []
    failed: list[int] = []
    call = type(policy.model).__call__

    def short_of_memory(self: Any, ids: mx.array, cache: Any = None) -> Any:
        if handed and not failed:
            failed.append(len(ids))
            raise RuntimeError("[metal::malloc] Attempting to allocate 1 bytes")
        return call(self, ids, cache=cache)

    mx.random.seed(5)
    expected = generate(policy, PROMPTS, 3, Sampling(max_new_tokens=60))
    monkeypatch.setattr(type(policy.model), "__call__", short_of_memory)
    mx.random.seed(5)
    groups = generate(
        policy, PROMPTS, 3, Sampling(max_new_tokens=60), on_group=lambda place, _: handed.append(place)
    )
    assert len(failed) == 1
    assert sorted(handed) == [0, 1, 2, 3]
    ids = [[item.token_ids for item in group] for group in groups]
    assert ids == [[item.token_ids for item in group] for group in expected]


# --- and their rewards begin -----------------------------------------------------------------------


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


# --- the seam --------------------------------------------------------------------------------------


def three_groups() -> list[Any]:
    return [
        group("a", "1", ["x", "xx"], level=1, odd=True),
        group("b", "2", ["xxx", "bad"], level=2),
        group("c", "3", ["xxxxx", "xxxxxx"], level=3),
    ]


def test_rewards_come_to_their_own_rows_in_whatever_order_groups_end() -> None:
    asked: list[Any] = []

    async def judge(prompts: Any, completions: Any, level: Any, **columns: Any) -> list[float]:
        asked.append((prompts[0][0]["content"], len(completions), sorted(columns)))
        await asyncio.sleep(0.01 * level[0])
        return [100.0 * level[0] + len(completion[0]["content"]) for completion in completions]

    groups = three_groups()
    with Scorer([("judge", judge)], [1.0]) as scorer, scorer.overlapping(groups, 2) as pending:
        for place in (2, 0, 1):
            pending.begin(place)
    assert [item.reward for one in groups for item in one.rollouts] == [101, 102, 203, 203, 305, 306]
    assert [(first, count) for first, count, _ in asked] == [("c", 2), ("a", 2), ("b", 2)]
    assert all({"answer", "completion_ids", "trainer_state"} <= set(names) for _, _, names in asked)


def test_an_early_error_names_the_completion_of_the_batch() -> None:
    async def brittle(completions: Any, **columns: Any) -> list[float]:
        del columns
        return [1.0 / (completion[0]["content"] != "bad") for completion in completions]

    groups = three_groups()
    with Scorer([("brittle", brittle)], [1.0]) as scorer:
        with (
            pytest.raises(RewardError, match=r"completion 4 of 6: 'bad'"),
            scorer.overlapping(groups, 2) as all_,
        ):
            for place in (2, 1, 0):
                all_.begin(place)
        assert left() == []


def test_a_part_knows_its_place() -> None:
    groups = three_groups()
    pending = PendingScores(scorer=Scorer([], []), groups=groups, size=2)
    assert pending.request_of(1) == RewardRequest.of(groups).part(2, 4)
