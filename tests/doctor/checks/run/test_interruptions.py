"""The check of what interrupted a run."""

from pathlib import Path

import pytest

from grpo_cli.engine.failures import FAILURES, Failure
from grpo_cli.engine.run_dir.incidents import Incident, Incidents
from tests.support.doctor_findings import Here, look


def recorded(folder: Path, *kinds: str) -> Path:
    incidents = Incidents(lambda: folder)
    for step, kind in enumerate(kinds, 1):
        incidents.record(Incident(kind=kind, step=step, place="the update", done="answered", seconds=61.0))
    return folder


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_every_class_is_named_with_its_chapter(failure: Failure, tmp_path: Path) -> None:
    (finding,) = look(Here(run=recorded(tmp_path, failure.name)), "interruptions")
    assert finding.severity == "warning"
    assert finding.seen.startswith(f"1 interruption: {failure.name}; 1 min 1 s lost\n")
    assert finding.commands == (f"grpo doctor --explain {failure.chapter}",)


def test_a_pause_is_told_with_its_chapter(tmp_path: Path) -> None:
    (finding,) = look(Here(run=recorded(tmp_path, "heat", "on battery")), "interruptions")
    assert finding.seen.startswith("2 interruptions: heat, on battery; 2 min 2 s lost\n")
    assert finding.commands == ("grpo doctor --explain long-runs",)


def test_a_kill_asks_for_supervision(tmp_path: Path) -> None:
    (finding,) = look(Here(run=recorded(tmp_path, "killed", "resumed", "killed")), "interruptions")
    assert finding.seen.startswith("2 interruptions: killed ×2; 3 min 3 s lost\n")
    assert finding.commands == ("save_steps = 10",)


@pytest.mark.parametrize("kinds", [(), ("interrupted",)])
def test_a_calm_run_and_a_user_that_stopped_it_are_well(kinds: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "training_log.jsonl").write_text('{"step": 1, "loss": 0.1}\n')
    (finding,) = look(Here(run=recorded(tmp_path, *kinds)), "interruptions")
    assert finding.severity == "ok"
