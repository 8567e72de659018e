"""An interrupted and resumed run in trackio's local database, read back by trackio's own storage."""

from pathlib import Path

import pytest

from tests.support.tracked_runs import STEPS, tracked


def test_each_step_once_with_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_PROJECT", "sums")
    pytest.importorskip("trackio", reason="the extra `trackio` is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    rewards, _ = tracked(tmp_path, "trackio", monkeypatch)
    assert capfd.readouterr().out == ""
    (run,) = SQLiteStorage.get_runs("sums")
    assert run.startswith("run-")
    logs = SQLiteStorage.get_logs("sums", run)
    seen = [(log["step"], log["train/reward"]) for log in logs if "train/reward" in log]
    assert seen == [(step, pytest.approx(rewards[step])) for step in STEPS]
    assert [log["step"] for log in logs if "completions" in log] == STEPS
    assert logs[-1]["summary/verdict"].startswith("accuracy ")
