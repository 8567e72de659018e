"""An interrupted and resumed run in mlflow's database, read back by its client."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.trackers.mlflow import experiment_id
from tests.support.tracked_runs import STEPS, tracked


def test_each_step_once_with_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sums")
    rewards, _ = tracked(tmp_path, "mlflow", monkeypatch)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    seen = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/reward")]
    assert sorted(seen) == [(step, pytest.approx(rewards[step])) for step in STEPS]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "eval/accuracy")] == [0, 4]
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("run", "FINISHED", "0")
    assert run.data.tags["verdict"].startswith("accuracy ")
    table = client.download_artifacts(run.info.run_id, "completions/step-000004.json")
    assert len(json.loads(Path(table).read_text())["data"]) == 2


class Experiments:
    """mlflow's client, as far as an experiment is looked up."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def get_experiment_by_name(self, name: str) -> Any:
        return self.found if name == "sums" else None

    def create_experiment(self, name: str) -> str:
        return f"new {name}"


def test_an_experiment_is_made_once() -> None:
    known = type("Known", (), {"experiment_id": 7})
    assert experiment_id(Experiments(known), "sums") == "7"
    assert experiment_id(Experiments(None), "sums") == "new sums"
