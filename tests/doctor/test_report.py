"""The bug report: what is in it, and what must never be."""

import json
import sys
from pathlib import Path

import pytest

from grpo_cli.doctor import last_error
from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.machine import Machine
from grpo_cli.doctor.redact import Redaction
from grpo_cli.doctor.report import bug_report
from grpo_cli.errors import ConfigError

REDACTION = Redaction.of(
    {"WANDB_API_KEY": "0123456789abcdef", "LANG": "en_GB.UTF-8", "MY_PASSWORD": "short"},
    home="/home/ada",
    user="ada",
    host="engine.local",
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ada/outputs/x", "~/outputs/x"),
        ("/Users/grace/models", "/Users/USER/models"),
        ("/home/grace/models", "/home/USER/models"),
        (r"C:\Users\grace\models", r"C:\Users\USER\models"),
        ("ada's run on engine.local (engine)", "USER's run on HOST (HOST)"),
        ("the adapters of adam", "the adapters of adam"),
        ("HF_TOKEN=hf_abcdefghijKLMN", "HF_TOKEN=***"),
        ("hf_abcdefghijKLMN", "***"),
        ("Authorization: Bearer abc.def", "Authorization: *** ***"),
        ("https://ada:pw@hub.example/x", "https://***@hub.example/x"),
        ("key 0123456789abcdef!", "key ***!"),
        ("api_key = 'xyz123'", "api_key = ***'"),
        ('{"password": "xyz123"}', '{"password": ***"}'),
        ("max_new_tokens = 128", "max_new_tokens = 128"),
        ("rollout_tokens_per_second: 12.5", "rollout_tokens_per_second: 12.5"),
        ("tokenizer = tokenizer.pkl", "tokenizer = tokenizer.pkl"),
    ],
)
def test_redaction(text: str, left: str) -> None:
    assert REDACTION.apply(text) == left


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
    findings = [Finding("warning", "it is near", "move it", name="swap", subject="memory")]
    text = bug_report(Case(machine=Recorded(), run=run), findings)
    assert "| system | Darwin arm64 |\n| Python | 3.12.3 |\n| memory | 17.2 GB |" in text
    assert "| device | metal Apple M1 |" in text
    assert "| grpo-cli | 0.1.0 |\n| mlx | 0.32.4 |" in text
    assert 'model_name = "tiny"' in text and 'output_dir = "/home/USER/x"' in text
    assert "- ! `swap` it is near\n  cure: move it" in text
    logged = [line for line in text.splitlines() if line.startswith('{"step"')]
    assert logged == [json.dumps({"step": step, "loss": 0.5}) for step in range(51, 151)]
    assert "ConfigError: Config file not found: x" in text
    assert "grpo train --config ***" in text
    assert "hf_secret" not in text


def test_a_report_of_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_error, "error_file", lambda: tmp_path / "none")
    text = bug_report(Case(machine=Recorded()), [])
    assert "# none was named" in text
    assert "no run was named, or it has no log" in text
    assert "none is recorded" in text


def test_an_error_is_kept_where_the_folder_cannot_be_made(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(last_error, "error_file", lambda: tmp_path / "file" / "last_error.txt")
    last_error.keep_last_error(ValueError("x"))  # not raised over the error that is being told
    assert last_error.last_error() == ""
