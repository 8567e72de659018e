"""A tracker in its own thread: what it gets, and what the run hears of one that raises, hangs or is slow."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_cli.trackers import worker as module
from grpo_cli.trackers.memory import Memory
from grpo_cli.trackers.protocol import Opening, OpenTracker, State, Table
from grpo_cli.trackers.worker import Item, Worker
from tests.support.fake_trackers import Fakes, exiting, hanging, raising, refusing


@pytest.fixture
def worker_of(tmp_path: Path) -> Callable[..., Worker]:
    def made(open_tracker: OpenTracker, **memory: int) -> Worker:
        opening = Opening(name="run", folder=tmp_path / "fake", config={}, new_id="ab12")
        return Worker("fake", open_tracker, opening, tmp_path / "fake.json", Memory(**memory))  # type: ignore

    return made


def ended(worker: Worker, seconds: float = 20.0, state: State = State.FINISHED) -> list[str]:
    """The notices of a worker after its end."""
    worker.end(state, {"verdict": "well"})
    worker.wait(time.monotonic() + seconds)
    return worker.notices()


def step(number: int) -> Item:
    return Item(kind="step", step=number, values={"train/reward": number / 4})


def test_a_tracker_gets_everything_in_order(worker_of: Callable[..., Worker], tmp_path: Path) -> None:
    fakes, table = Fakes(), Table(["prompt"], [["2 + 2"]])
    worker = worker_of(fakes.keeping)
    for item in (step(1), Item(kind="table", step=1, table=table), step(2)):
        worker.put(item)
    assert ended(worker, state=State.INTERRUPTED) == []
    (kept,) = fakes.opened
    assert (kept.steps, kept.values) == ([1, 2], [{"train/reward": 0.25}, {"train/reward": 0.5}])
    assert kept.tables == [(1, table)]
    assert kept.ended == (State.INTERRUPTED, {"verdict": "well"})
    assert Memory.read(tmp_path / "fake.json") == Memory(run_id="ab12", step=2, table=1)


def test_steps_sent_before_a_resume_are_not_sent_again(worker_of: Callable[..., Worker]) -> None:
    fakes = Fakes()
    worker = worker_of(fakes.keeping, step=2, evaluation=1)
    for item in (step(1), step(2), Item(kind="evaluation", step=2), step(3)):
        worker.put(item)
    ended(worker)
    assert fakes.opened[0].steps == [2, 3]  # of step 2 only the evaluation


@pytest.mark.parametrize(
    ("open_tracker", "seen"),
    [
        (raising, "fake failed and is switched off, the run goes on: ConnectionError: the server is gone"),
        (refusing, "fake failed and is switched off, the run goes on: PermissionError: no access for run"),
        (exiting, "fake failed and is switched off, the run goes on: SystemExit: no access for run"),
    ],
)
def test_a_tracker_that_raises_is_told_once(
    open_tracker: OpenTracker, seen: str, worker_of: Callable[..., Worker]
) -> None:
    worker = worker_of(open_tracker)
    for number in range(1, 50):
        worker.put(step(number))
    (notice,) = ended(worker)
    assert notice.startswith(seen)


def test_a_tracker_that_hangs_holds_nobody(
    worker_of: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANGING_SECONDS", 0.2)
    worker = worker_of(hanging)
    started = time.monotonic()
    for number in range(1, 2000):  # far more than the queue holds
        worker.put(step(number))
    assert time.monotonic() - started < 5.0
    deadline = time.monotonic() + 20.0
    told = []
    while time.monotonic() < deadline and not any("answered" in text for text in told):
        told += worker.notices()
    assert "fake has not answered for 0 s; the run goes on without it" in told
    assert sum("too slow" in text for text in told) == 1
    started = time.monotonic()
    assert ended(worker, seconds=60.0) == []
    assert time.monotonic() - started < 10.0  # a hung call is not waited for


def test_a_slow_end_is_told(worker_of: Callable[..., Worker]) -> None:
    worker = worker_of(hanging)
    worker.put(step(1))
    assert ended(worker, seconds=0.2) == [
        "fake did not take everything before the end: its last values are missing"
    ]


def test_the_end_reaches_a_tracker_whose_queue_is_full(
    worker_of: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_QUEUE", 2)
    fakes = Fakes()

    def slow(opening: Opening) -> object:
        time.sleep(0.5)
        return fakes.keeping(opening)

    worker = worker_of(slow)
    for number in (1, 2, 3):
        worker.put(step(number))
    assert ended(worker) == ["fake is too slow: steps from 3 on are left out there"]
    assert fakes.opened[0].steps == [2]
    assert fakes.opened[0].ended is not None
