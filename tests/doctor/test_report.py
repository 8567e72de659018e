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
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("Proxy-Authorization: Basic abc def", "Proxy-Authorization: ***"),
        ("sent 'Bearer abc.def', twice", "sent 'Bearer ***', twice"),
        ("sent 'Basic YWRhOnB3', twice", "sent 'Basic ***', twice"),
        ("https://ada:pw@hub.example/x", "https://***@hub.example/x"),
        ("key 0123456789abcdef!", "key ***!"),
        ("api_key = 'xyz123'", "api_key = ***"),
        ("apiKey: xyz123, x", "apiKey: ***, x"),
        ("AWS_SECRET_ACCESS_KEY=xyz/123 x", "AWS_SECRET_ACCESS_KEY=*** x"),
        ("private_key: xyz123", "private_key: ***"),
        ("client_secret=xyz123", "client_secret=***"),
        ("credentials=xyz123", "credentials=***"),
        ('{"password": "xyz123"}', '{"password": ***}'),
        ("passwd='a b'", "passwd=***"),
        ("passphrase: a b c", "passphrase: ***"),
        ("PWD=a b", "PWD=***"),
        ("Set-Cookie: a=b; c=d", "Set-Cookie: ***"),
        ("password=foo bar", "password=***"),
        ("--password foo bar --set seed=3", "--password *** --set seed=3"),
        ('token = "abcdefgh123"', "token = ***"),
        ('token = """abc"def"""', "token = ***"),
        (r'token = "abc\"def" # x', "token = *** # x"),
        (r"token = 'abc\'def' # x", "token = *** # x"),
        ('{"token": "abcdefgh123", "loss": 1}', '{"token": ***, "loss": 1}'),
        (r'{"sent": "{\"token\": \"abcdefgh123\"}"}', r'{"sent": "{\"token\": ***}"}'),
        ("--api-key abcdefgh x", "--api-key *** x"),
        ("--token abcdefgh --set seed=3", "--token *** --set seed=3"),
        ("--token --set seed=3", "--token --set seed=3"),
        ("['--token', 'abcdefgh', 'x']", "['--token', ***, 'x']"),
        ("--token=abcdefgh", "--token=***"),
        ("https://secrettoken123@host/x", "https://***@host/x"),
        ("https://ada:p@w@hub.example/x", "https://***@hub.example/x"),
        ("https://host/x?token=abc123def&page=2", "https://host/x?token=***&page=2"),
        ("sk-abcdefghijkl", "***"),
        ("ghp_abcdefghijkl", "***"),
        ("github_pat_11ABCDEFG0abc_xyz", "***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("got eyJhbGciOi.eyJzdWIiOi.abc-_123!", "got ***!"),
        ("write to grace.h+x@example.org.", "write to ***."),
        ("nonnumeric port: 'pw77@mirror.example'", "nonnumeric port: '***'"),
        ("nonnumeric port: 'p!$77@localhost'", "nonnumeric port: '***'"),
        ("nonnumeric port: 'pw77@10.0.0.1'", "nonnumeric port: '***'"),
        ("proxy me:pw77@mirror:80", "proxy ***:80"),
        ("/home/ada2/x", "/home/USER/x"),
        ("/home/ada.old/x", "/home/USER/x"),
        ("/mnt/home/ada/x", "/mnt/home/USER/x"),
        ("in /home/ada.", "in ~."),
        ("'/home/ada'", "'~'"),
        ("/Users/Ada Lovelace/x", "/Users/USER/x"),
        ("'/Users/Ada Lovelace' x", "'/Users/USER' x"),
        ("/Users/grace and /home/bob", "/Users/USER and /home/USER"),
        (r"C:\\Users\\Grace\\x", r"C:\\Users\\USER\\x"),
        (r"C:\\\\Users\\\\Grace\\\\x", r"C:\\\\Users\\\\USER\\\\x"),
        ('{"tokens": 12}', '{"tokens": 12}'),
        ("eos_token: 5, seconds_per_token: 2", "eos_token: 5, seconds_per_token: 2"),
        ("`hub-token`: none is set", "`hub-token`: none is set"),
        ("x = a @ b; y = a@b", "x = a @ b; y = a@b"),
        ("mlx@0.32.4", "mlx@0.32.4"),
        ("max_new_tokens = 128", "max_new_tokens = 128"),
        ("rollout_tokens_per_second: 12.5", "rollout_tokens_per_second: 12.5"),
        ("tokenizer = tokenizer.pkl", "tokenizer = tokenizer.pkl"),
    ],
)
def test_redaction(text: str, left: str) -> None:
    assert REDACTION.apply(text) == left


def test_names_are_found_as_json_writes_them() -> None:
    redaction = Redaction.of({"X_TOKEN": 'a"bcdef'}, home="/Users/André", user="André", host="")
    assert redaction.apply(json.dumps("/Users/André/x")) == '"~/x"'
    assert redaction.apply(json.dumps('of André: a"bcdef')) == '"of USER: ***"'


def test_a_long_word_takes_no_time() -> None:
    """Work proportional to the text: with its square this would take minutes."""
    for text in ("a" * 200_000, "a:" * 100_000, "-" * 200_000, "token" * 40_000):
        assert REDACTION.apply(text) == text


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


def test_an_error_is_kept_where_the_folder_cannot_be_made(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(last_error, "error_file", lambda: tmp_path / "file" / "last_error.txt")
    last_error.keep_last_error(ValueError("x"))  # not raised over the error that is being told
    assert last_error.last_error() == ""


def test_users_and_names_of_other_machines_are_taken_out(tmp_path: Path) -> None:
    hosts = [{"ssh": "grace@mac1.local", "ips": ["10.0.0.1"]}, {"ssh": "10.0.0.2", "ips": ["10.0.0.2"]}]
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(hosts))
    context = Context(machine=Recorded(), hosts=path)
    context.__dict__["host_probes"] = {"10.0.0.2": HostProbe("10.0.0.2", {"host": "Graces-MacBook.local"})}
    seen = "grace@mac1: Permission denied; 10.0.0.2: Graces-MacBook.local; Graces-MacBook, mac1 and 10.0.0.2"
    text = bug_report(context, [Finding(severity="error", seen=seen, name="hosts", subject="hosts")])
    assert "`hosts` USER@HOST: Permission denied; 10.0.0.2: HOST; HOST, HOST and 10.0.0.2" in text
