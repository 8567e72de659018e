"""MLX's cache: its limit by device, when it is cleared, and that no result depends on it."""

from pathlib import Path

import mlx.core as mx
import pytest

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.memory.cache import CacheRoom, cache_limit
from grpo_cli.engine.memory.check import limit_cache, needs_of
from grpo_cli.engine.memory.estimate import MemoryNeeds
from grpo_cli.engine.train import train
from tests.support.small_runs import lines, small, weights

GB = 10**9
# Weights 4 and optimizer 2; gradient and update 3 + 4 more: the peak is 13, of which 7 are temporary.
NEEDS = MemoryNeeds(
    weights=4 * GB, optimizer=2 * GB, gradients=3 * GB, step=GB, rollouts=5 * GB, update=4 * GB
)


@pytest.mark.parametrize(
    ("kind", "budget", "set_gb", "limit"),
    [
        ("metal", 16 * GB, 0.0, 3 * GB),  # what the budget leaves
        ("cuda", 84 * GB, 0.0, 7 * GB),  # the temporary arrays: more cannot be reused
        ("metal", 13 * GB, 0.0, 1 << 28),  # nothing is left: the least
        ("metal", 10 * GB, 0.0, 1 << 28),
        ("metal", 16 * GB, 2.5, 2_500_000_000),
        ("cpu", 16 * GB, 0.0, 1 << 30),
        ("cpu", 16 * GB, 0.001, 1_000_000),
        ("cuda", None, 0.0, None),
    ],
)
def test_the_limit(kind: device.Kind, budget: int | None, set_gb: float, limit: int | None) -> None:
    assert (NEEDS.peak, NEEDS.rollout_peak) == (13 * GB, 11 * GB)
    assert cache_limit(Config(cache_limit_gb=set_gb), kind, NEEDS, budget) == limit


def test_a_model_of_unknown_shape_gets_an_eighth() -> None:
    assert cache_limit(Config(), "metal", None, 16 * GB) == 2 * GB


@pytest.mark.parametrize(
    ("needs", "budget", "cached", "cleared"),
    [
        (NEEDS, 16 * GB, 3 * GB, []),
        (NEEDS, 16 * GB, 3 * GB + 1, ["update"]),
        (NEEDS, 16 * GB, 5 * GB + 1, ["rollouts", "update"]),
        (NEEDS, None, 90 * GB, []),
        (None, 16 * GB, 90 * GB, []),
    ],
)
def test_it_is_cleared_where_the_next_work_would_not_fit(
    needs: MemoryNeeds | None, budget: int | None, cached: int, cleared: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls: list[str] = []
    monkeypatch.setattr(device, "cache_memory", lambda: cached)
    room = CacheRoom(needs, budget)
    monkeypatch.setattr(device, "clear_cache", lambda: calls.append("rollouts"))
    room.before_rollouts()
    monkeypatch.setattr(device, "clear_cache", lambda: calls.append("update"))
    room.before_update()
    assert calls == cleared


def test_a_limit_that_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[events.Event] = []
    limits: list[int] = []
    monkeypatch.setattr(device, "set_cache_limit", limits.append)
    run = setup.prepare(small(tmp_path, cache_limit_gb=2.0), seen.append)
    needs = needs_of(run)
    assert needs is not None
    limit_cache(run, needs.peak + 2 * GB)
    assert seen == []
    limit_cache(run, needs.peak + GB)
    (notice,) = seen
    assert isinstance(notice, events.Notice)
    assert notice.text.endswith("GB there are: `cache_limit_gb = 1.0` fits")
    assert limits == [2 * GB, 2 * GB]
    assert run.cache_room == CacheRoom(needs, needs.peak + GB)


def test_a_run_does_not_depend_on_it_and_logs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clearing before every rollout and update, with the smallest cache: the same weights, byte for byte."""
    train(small(tmp_path / "usual"))
    before = mx.set_cache_limit(device.CPU_CACHE_BYTES)
    assert before == device.CPU_CACHE_BYTES
    monkeypatch.setattr(device, "memory_budget", lambda _: 1)
    monkeypatch.setattr("grpo_cli.engine.train.check_memory", lambda *_: None)
    train(small(tmp_path / "none", cache_limit_gb=1e-5))
    assert mx.set_cache_limit(before) == 10_000
    assert weights(tmp_path / "none/run") == weights(tmp_path / "usual/run")
    usual, none = lines(tmp_path / "usual/run"), lines(tmp_path / "none/run")
    assert all(0 < line["cache_memory_gb"] <= 1.074 for line in usual)
    assert [line["cache_memory_gb"] <= 1e-5 for line in none] == [True, True]
