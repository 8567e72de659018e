"""An interrupted and resumed run in mlflow's database and at its own server, read back by its client."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.trackers.mlflow import experiment_id
from tests.support.tracked_runs import STEPS, tracked

PATIENCE = 120.0  # seconds for the server to start: it makes its database first


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of mlflow's own server on the loopback, with a database of sqlite."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too; all is read already
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail("mlflow's server does not answer")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["database", "server"])
def test_each_step_once_with_its_value(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sums")
    if place == "database":
        check(f"sqlite:///{tmp_path}/runs.db", tmp_path, monkeypatch)
    else:
        with server(tmp_path) as address:
            check(address, tmp_path, monkeypatch)


def check(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(address)
    rewards, notices = tracked(folder, "mlflow", monkeypatch)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    seen = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/reward")]
    assert sorted(seen) == [(step, pytest.approx(rewards[step])) for step in STEPS]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "eval/accuracy")] == [0, 4]
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("run", "FINISHED", "0")
    assert run.data.tags["verdict"].startswith("accuracy ") and notices == []
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
