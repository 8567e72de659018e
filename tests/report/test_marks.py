"""The events of a run, as marks on its curves and as a list."""

from pathlib import Path

from grpo_cli.engine.run_dir.incidents import Incident, Incidents
from grpo_cli.report.marks import headline, label, marks_of
from grpo_cli.report.read import read_run
from tests.support.report_runs import run_of
from tests.support.run_logs import steps


def test_interruptions_resumes_pressure_skips_and_flags_in_the_order_of_steps(tmp_path: Path) -> None:
    log = steps(5)
    log[0]["flags"] = ["KL above 1", "a\x1b[2J", 7]
    log[2] |= {"skipped": "loss is nan", "flags": ["skipped update"], "machine_actions": ["cache cleared"]}
    incidents = Incidents(lambda: tmp_path)
    for kind, step, seconds in (("GPU timeout", 4, 8.2), ("resumed", 4, 65.0)):
        incidents.record(
            Incident(
                kind=kind, step=step, place="the update" if seconds < 9 else "", done="half as many at once",
                seconds=seconds, time="2026-03-01T02:14:09+01:00",
            )
        )  # fmt: skip
    run = run_of(tmp_path, log)
    assert [(mark["step"], mark["kind"], mark["text"]) for mark in marks_of([run])] == [
        (1, "flag", "KL above 1; a␛[2J"),
        (3, "pressure", "cache cleared"),
        (3, "skipped", "loss is nan"),
        (4, "interruption", "2026-03-01 02:14 GPU timeout in the update: half as many at once (8 s lost)"),
        (4, "resume", "2026-03-01 02:14 half as many at once (1 min 5 s lost)"),
    ]
    assert headline(run) == "1 interruption: GPU timeout; 1 min 13 s lost"
    assert marks_of([run, run])[0]["text"].endswith(": KL above 1; a␛[2J")


def test_a_pause_is_marked_once(tmp_path: Path) -> None:
    log = steps(5)
    log[3]["machine_actions"] = ["cache cleared", "paused 42 s: heat"]
    run = run_of(tmp_path, log)
    assert [mark["text"] for mark in marks_of([run])] == ["cache cleared; paused 42 s: heat"]
    Incidents(lambda: tmp_path).record(Incident(kind="heat", step=3, done="paused", seconds=42.0, time=""))
    run = read_run(tmp_path)
    assert [(mark["step"], mark["kind"], mark["text"]) for mark in marks_of([run])] == [
        (3, "pressure", "heat: paused (42 s lost)"), (4, "pressure", "cache cleared"),
    ]  # fmt: skip


def test_a_quiet_run_has_none(tmp_path: Path) -> None:
    run = run_of(tmp_path, steps(3))
    assert (marks_of([run]), headline(run)) == ([], "")


def test_texts_are_bounded_and_on_one_line() -> None:
    assert label("a\nb") == "a⏎b" and len(label("x" * 500)) == 60
