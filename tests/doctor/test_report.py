"""The bug report: what is in it, and what must never be."""

import json
import sys
from pathlib import Path

import pytest

from grpo_cli.doctor import last_error
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.read.host_probe import HostProbe
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.doctor.report import bug_report
from grpo_cli.errors import ConfigError


class Recorded(Machine):
    """A machine of known facts."""

    system, architecture, python = "Darwin", "arm64", "3.12.3"  # type: ignore[assignment]

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_TOKEN": "hf_secretsecret"}

    def memory_bytes(self) -> int:
        return 17_179_869_184

    def version(self, package: str) -> str | None:
        return {"mlx": "0.32.4", "grpo-cli": "0.1.0"}.get(package)

    def probe(self) -> dict:
        return {"mlx": "0.32.4", "device": "metal", "device_name": "Apple M1"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(1, 151)]
    (folder / "training_log.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "config.toml").write_text('model_name = "tiny"\noutput_dir = "/home/grace/x"\n')
    return folder


def test_a_report_has_everything_that_is_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_error, "error_file", lambda: run / "last_error.txt")
    monkeypatch.setattr(sys, "argv", ["grpo", "train", "--config", "hf_secretsecret"])
    last_error.keep_last_error(ConfigError("Config file not found: x", "look again"))
    findings = [Finding(severity="warning", seen="it is near", cure="move it", name="swap", subject="memory")]
    text = bug_report(Context(machine=Recorded(), run=run), findings)
    assert "| system | Darwin arm64 |\n| Python | 3.12.3 |\n| memory | 17.2 GB |" in text
    assert "| device | metal Apple M1 |" in text
    assert "| grpo-cli | 0.1.0 |\n| mlx | 0.32.4 |" in text
    assert 'model_name = "tiny"' in text and 'output_dir = "/home/USER/x"' in text
    assert "- ! `swap` it is near\n  fix: move it" in text
    logged = [line for line in text.splitlines() if line.startswith('{"step"')]
    assert logged == [json.dumps({"step": step, "loss": 0.5}) for step in range(51, 151)]
    assert "ConfigError: Config file not found: x" in text
    assert "grpo train --config ***" in text
    assert "hf_secret" not in text


def test_a_report_of_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_error, "error_file", lambda: tmp_path / "none")
    text = bug_report(Context(machine=Recorded()), [])
    assert "# none was named" in text
    assert "no run was named, or it has no log" in text
    assert "none is recorded" in text


def test_users_and_names_of_other_machines_are_taken_out(tmp_path: Path) -> None:
    hosts = [{"ssh": "grace@mac1.local", "ips": ["10.0.0.1"]}, {"ssh": "10.0.0.2", "ips": ["10.0.0.2"]}]
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(hosts))
    context = Context(machine=Recorded(), hosts=path)
    context.__dict__["host_probes"] = {"10.0.0.2": HostProbe("10.0.0.2", {"host": "Graces-MacBook.local"})}
    seen = "grace@mac1: Permission denied; 10.0.0.2: Graces-MacBook.local; Graces-MacBook, mac1 and 10.0.0.2"
    text = bug_report(context, [Finding(severity="error", seen=seen, name="hosts", subject="hosts")])
    assert "`hosts` USER@HOST: Permission denied; 10.0.0.2: HOST; HOST, HOST and 10.0.0.2" in text
