"""Whole runs on a device that fails: every class of failures at every place of a step.

Each run is compared with a calm one: the same weights, to the bit where rows are not divided. `harmed`
resumes a run as cli/restart.py does, so it also shows that nothing is lost where a new process is needed.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.recovery import DeviceLost, Restart
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.incidents import read_incidents
from grpo_cli.engine.train import train
from tests.support.device_faults import PLACES, TEXTS, Faults
from tests.support.small_runs import SHORT, small

STEPS = 3
# One text of each class; tests/engine/test_failures.py has the others.
CURABLE = ["metal memory", "timeout", "interactivity", "page fault", "victim", "resource limit", "compile"]
# The call that fails at each place: each after the one before was computed again.
FAILING_CALL = {
    "prefill": 4, "decode": 20, "forward": 2, "backward": 3, "optimizer": 2, "evaluation": 2, "saving": 2
}  # fmt: skip
EXACT = ("victim", "resource limit", "compile")  # rows are not divided, so not a bit differs


def settings(folder: Path, name: str) -> Config:
    keys: dict[str, Any] = {**SHORT, "max_steps": STEPS, "save_steps": 1, "keep_checkpoints": 9}
    return small(folder, run_name=name, **keys | {"eval_steps": 1, "eval_samples": 4, "lora_rank": 0})


def weights(run_dir: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(run_dir / "final" / "model.safetensors"))
    return dict(found)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, mx.array]:
    config = settings(tmp_path_factory.mktemp("calm"), "calm")
    train(config)
    return weights(config.run_dir)


def harmed(config: Config) -> tuple[int, list[str]]:
    """Train, and resume after each Restart: the number of restarts, and the notices."""
    seen: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)

    restarts = 0
    while True:
        try:
            if restarts:
                resume(config.run_dir, [], listen)
            else:
                train(config, listen)
        except Restart as error:
            assert error.run_dir == config.run_dir.absolute()
            restarts += 1
        else:
            return restarts, seen


def assert_close(found: dict[str, mx.array], expected: dict[str, mx.array], is_exact: bool) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        gap = float(mx.abs(found[name] - array).max())
        assert gap == 0.0 if is_exact else gap < 5e-5, (name, gap)


@pytest.mark.parametrize("name", CURABLE)
def test_a_failure_at_every_place_costs_nothing(
    name: str, calm: dict[str, mx.array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, "harmed")
    faults = [Faults(place, TEXTS[name], (call,)) for place, call in FAILING_CALL.items()]
    for one in faults:
        one.set_up(monkeypatch)
    restarts, seen = harmed(config)
    assert [(one.place, one.raised) for one in faults] == [(place, 1) for place in PLACES]
    assert restarts == 0
    assert_close(weights(config.run_dir), calm, name in EXACT)
    incidents = read_incidents(config.run_dir)
    assert len(incidents) == len(PLACES)
    assert {one.place for one in incidents} == {
        *("rollouts", "the evaluation", "the update", "the optimizer", "saving")
    }
    assert all(any(one.kind in text and one.done in text for text in seen) for one in incidents)


def test_a_resource_limit_that_comes_again_restarts_the_process_and_loses_nothing(
    calm: dict[str, mx.array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, "harmed")
    faults = [
        Faults(place, TEXTS["resource limit"], (call, call + 1)) for place, call in FAILING_CALL.items()
    ]
    for one in faults:
        one.set_up(monkeypatch)
    restarts, _ = harmed(config)
    assert [(one.place, one.raised) for one in faults] == [(place, 2) for place in PLACES]
    assert restarts >= len(PLACES) - 1  # two places may fail one after the other
    assert_close(weights(config.run_dir), calm, is_exact=True)


@pytest.mark.parametrize("place", PLACES)
def test_a_lost_device_saves_and_ends_with_the_reason(
    place: str, calm: dict[str, mx.array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, "harmed")
    with monkeypatch.context() as harm:
        faults = Faults(place, TEXTS["lost device"], range(FAILING_CALL[place], 1000))
        faults.set_up(harm)
        with pytest.raises(DeviceLost, match="illegal memory access") as error:
            train(config)
        assert error.value.exit_code == 75
        assert read_incidents(config.run_dir)[-1].kind == "lost device"
    resume(config.run_dir)
    assert_close(weights(config.run_dir), calm, is_exact=True)
