"""Whole runs on a machine under pressure, by readings of the test: what they do, and that results stay."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from grpo_cli.distributed.world import World
from grpo_cli.engine import events, setup
from grpo_cli.engine.host import relief
from grpo_cli.engine.host.facts import HostFacts
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.incidents import read_incidents
from grpo_cli.engine.train import train
from grpo_cli.errors import Interrupted
from tests.support.machines import RecordedMachine
from tests.support.small_runs import lines, log_without_times, small, weights

FINE, SHORT, HOT = HostFacts(), HostFacts(memory=2), HostFacts(heat="97 °C")
BATTERY = HostFacts(battery="63%")
ACTIONS = ("machine_actions", "paused_seconds")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading before every step, and pauses of no length."""
    monkeypatch.setattr("grpo_cli.engine.host.pressure.EVERY", 0.0)
    monkeypatch.setattr(relief, "TICK", 0.0)


def trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, readings: list[HostFacts], **changes: object
) -> tuple[Path, list[str]]:
    """The folder of a run of four steps on a machine with these readings, fine ever after; its notices."""
    seen: list[str] = []
    left = iter(readings)
    monkeypatch.setattr("grpo_cli.engine.run.read_facts", lambda _: next(left, FINE))

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)

    settings = {
        "max_steps": 4,
        "batch_size": 2,
        "num_generations": 4,
        "max_new_tokens": 12,
        "temperature": 2.0,
    }
    train(small(folder, **(settings | changes)), listen)
    return folder / "run", seen


def timeless(texts: list[str]) -> list[str]:
    """The texts with every length of a pause as 0: a busy machine makes them longer."""
    return [re.sub(r"\d+(\.\d+)? (s:|minutes)", r"0 \2", text) for text in texts]


def actions(folder: Path) -> list[list[str]]:
    return [timeless(line.get("machine_actions", [])) for line in lines(folder)]


def incidents(folder: Path) -> list[tuple[str, int, str]]:
    return [(one.kind, one.step, one.done) for one in read_incidents(folder)]


def test_a_cleared_cache_and_pauses_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm, said = trained(tmp_path / "calm", monkeypatch, [])
    assert (actions(calm), said) == ([[], [], [], []], [])
    readings = [SHORT, BATTERY, BATTERY, FINE, HOT, HOT, HOT, FINE]
    every = "battery|pressure|heat"
    pressed, told = trained(tmp_path / "pressed", monkeypatch, readings, pause_on=every)
    assert weights(pressed) == weights(calm)
    done = actions(pressed)
    assert done == [["cache cleared"], ["paused 0 s: battery"], [], ["paused 0 s: heat"]]
    assert [key in lines(pressed)[1] for key in ACTIONS] == [True, True]
    assert incidents(pressed) == [("on battery", 1, "paused"), ("heat", 3, "paused")]
    plain = [{k: v for k, v in line.items() if k not in ACTIONS} for line in log_without_times(pressed)]
    assert plain == log_without_times(calm)
    assert (pressed / "checkpoint-1").is_dir() and (pressed / "checkpoint-3").is_dir()  # saved before pausing
    assert timeless(told) == [
        "memory is very short on this machine: MLX's cache is cleared",
        "paused after step 1: on battery (63%); the run continues by itself",
        "the run continues after a pause of 0 minutes",
        "paused after step 3: 97 °C; the run continues by itself",
        "the run continues after a pause of 0 minutes",
    ]


def test_halved_rows_give_the_same_completions_and_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, _ = trained(tmp_path / "calm", monkeypatch, [])
    halved, told = trained(tmp_path / "halved", monkeypatch, [SHORT, SHORT], pause_on="")
    assert actions(halved) == [["cache cleared"], ["cache cleared", "4 completions at once"], [], []]
    assert incidents(halved) == [("memory pressure", 1, "at most 4 completions at once")]
    assert told[-1].endswith("now at most 4 completions in the update, with the same result")
    before, after = (
        [
            [line[key] for key in ("reward_mean", "completion_length_mean", "grad_norm")]
            for line in lines(folder)
        ]
        for folder in (calm, halved)
    )
    assert any(line[2] > 0 for line in before)
    for ours, theirs in zip(after, before, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_actions_wait_for_the_next_line_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = trained(tmp_path, monkeypatch, [SHORT, FINE, SHORT], pause_on="", logging_steps=2)
    assert actions(folder) == [["cache cleared"], ["cache cleared"]]  # of steps 1 and 3, at 2 and 4


def test_budgeted_microbatches_are_halved_from_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget for two completions of 12 tokens after a prompt of at most 40: half is one, not 4 of 8."""
    changes = {"microbatch_tokens": 64, "max_prompt_length": 40}
    folder, _ = trained(tmp_path, monkeypatch, [SHORT, SHORT], pause_on="", **changes)
    assert incidents(folder) == [("memory pressure", 1, "at most 1 completion at once")]


def test_ctrl_c_ends_a_pause_with_the_step_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm, _ = trained(tmp_path / "calm", monkeypatch, [])

    def asleep(_: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(relief, "time", SimpleNamespace(sleep=asleep))  # not for other threads
        with pytest.raises(Interrupted, match=r"Stopped after step 2\."):
            trained(tmp_path / "other", patch, [FINE, FINE, *[BATTERY] * 99], pause_on="battery")
    resume(tmp_path / "other/run")
    assert weights(tmp_path / "other/run") == weights(calm)


@pytest.mark.parametrize(
    ("rank", "takes"), [(0, True), (1, False), (2, True), (3, False)], ids=["a", "a again", "b", "b again"]
)
def test_the_first_rank_of_each_machine_keeps_it_awake(
    rank: int, takes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    class Ranks(World):
        def gather(self, value: object) -> list[object]:  # noqa: ARG002
            return ["a", "a", "b", "b"]

    @contextmanager
    def kept(*_: object) -> Iterator[None]:
        taken.append("taken")
        yield
        taken.append("released")

    monkeypatch.setattr(relief, "kept_awake", kept)
    run = setup.prepare(small(tmp_path))
    run.world = Ranks(rank, 4)
    with relief.working(run):
        assert taken == ["taken"] * takes
    assert taken == ["taken", "released"] * takes


def test_all_ranks_pause_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 is fine; rank 1 is on battery for two of its readings."""
    told: list[str] = []
    others = iter([["battery", "on battery (9%)"], False, True, False, True, False, False, False])

    class Ranks(World):
        def gather(self, value: object) -> list[object]:
            return [value, next(others)]

    monkeypatch.setattr("grpo_cli.engine.run.read_facts", lambda _: FINE)
    run = setup.prepare(
        small(tmp_path), lambda event: told.append(event.text) if isinstance(event, events.Notice) else None
    )
    run.world = Ranks(0, 2)
    relief.relieve(run, lambda: pytest.fail("there is no step to save"))
    assert told[0] == "paused after step 0: on battery (9%); the run continues by itself"
    assert next(others, None) is None
    assert timeless(run.machine_actions) == ["paused 0 s: battery"]


def test_a_battery_and_a_closed_lid_are_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {
        "pmset -g batt": "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t63%; discharging",
        "ioreg -r -k AppleClamshellState -d 4": '"AppleClamshellState" = Yes',
    }
    monkeypatch.setattr(relief, "System", lambda: RecordedMachine("m1_macos14", outputs=outputs))
    monkeypatch.setenv("PATH", str(tmp_path))  # no caffeinate
    battery, lid, sleepy = trained(tmp_path / "told", monkeypatch, [])[1]
    assert battery.startswith("on battery (63%): the run is slower, and ends with it")
    assert lid.startswith("the lid is closed: ")
    assert sleepy == "the machine may fall asleep during the run: caffeinate: No such file or directory"
    quiet = {"pause_on": "battery", "keep_awake": False}
    assert trained(tmp_path / "quiet", monkeypatch, [], **quiet)[1] == [relief.LID]
