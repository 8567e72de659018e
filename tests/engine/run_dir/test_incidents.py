"""The record of what interrupted a run."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from grpo_cli.engine.run_dir.incidents import (
    INCIDENTS,
    Incident,
    Incidents,
    read_incidents,
    spent,
    time_lost,
    told,
)


def one(kind: str, step: int, seconds: float = 0.0) -> Incident:
    return Incident(kind=kind, step=step, done="d", seconds=seconds, time="2026-11-30T02:14:03+00:00")


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    incidents = Incidents(lambda: tmp_path)
    written = [one("GPU timeout", 3, 1.5), one("killed", 5)]
    for incident in written:
        incidents.record(incident)
    assert read_incidents(tmp_path) == written == incidents.seen


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    Incidents(lambda: tmp_path).record(one("killed", 5))
    with (tmp_path / INCIDENTS).open("ab") as file:
        file.write(b'{"kind": 3}\n[1]\n' + b"[" * 100_000 + b'\n\xff\n{"kind": "x", "ste')
    assert read_incidents(tmp_path) == [one("killed", 5)]
    assert read_incidents(tmp_path / "nothing") == []


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    Incidents(lambda: tmp_path / "gone").record(one("killed", 5))


def test_the_night_in_a_few_lines() -> None:
    seen = [
        *(one("GPU timeout", step, 10.0) for step in range(1, 6)),
        one("killed", 9),
        one("resumed", 6, 70.0),
    ]
    assert told(seen) == [
        "6 interruptions: GPU timeout ×5, killed; 2 min 0 s lost",
        "  02:14 step 3: GPU timeout: d (10 s)",
        "  02:14 step 4: GPU timeout: d (10 s)",
        "  02:14 step 5: GPU timeout: d (10 s)",
        "  02:14 step 9: killed: d",
    ]
    assert told([one("interrupted", 3), one("resumed", 3)]) == []


def test_time_lost_is_counted_once() -> None:
    """A checkpoint at 01:50, kills at 02:00 and 02:05, each noted by the next process."""
    day = datetime(2026, 11, 30, tzinfo=UTC).timestamp()
    saved, first, second = (day + 60 * minutes for minutes in (110, 120, 125))
    kill = Incident(kind="killed", step=5, time="2026-11-30T02:00:00+00:00")
    assert time_lost(saved, first, []) == 600
    assert time_lost(saved, second, [kill, one("GPU timeout", 5)]) == 300
    assert time_lost(second, second + 60, [kill]) == 60  # a newer checkpoint
    assert time_lost(saved, first, [Incident(kind="killed", step=5, time="")]) == 600
    assert time_lost(second, first, []) == 0  # the clock was set back


def test_durations() -> None:
    assert [spent(seconds) for seconds in (0.4, 59, 61, 3700)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


@pytest.mark.parametrize(
    ("kind", "place", "expected"),
    [
        ("lost device", "", True),
        ("error", "", True),
        ("GPU timeout", "the update", False),  # answered
        ("heat", "the machine", False),
        ("killed", "", False),  # recorded by the process that resumed
        ("resumed", "", False),
        ("interrupted", "", False),
    ],
)
def test_ends_that_the_user_did_not_ask_for(kind: str, place: str, expected: bool) -> None:
    assert Incident(kind=kind, step=3, place=place).is_failed_end is expected
