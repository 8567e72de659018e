"""The hub: recorded answers, a real server that answers, and one that does not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.read.hub import without_password
from grpo_cli.doctor.read.machine import Machine
from tests.support.machines import HEALTHY, RecordedMachine, context_on, look, looks, told

NO_NETWORK = "[Errno -2] Name or service not known"
NEEDS = 'model_name = "Qwen/Qwen2.5-0.5B-Instruct"\ndataset = "openai/gsm8k"\ndataset_config = "main"\n'


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration that needs the hub."""
    path = tmp_path / "needs.toml"
    path.write_text(NEEDS)
    return str(path)


def home(folder: Path, **variables: str) -> dict[str, Any]:
    """Changes of a recorded machine: where its downloads are, and other variables."""
    return {"environment": {"HF_HOME": str(folder / "hf"), **variables}}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_gets_no_warning(name: str, tmp_path: Path) -> None:
    found = looks("hub", context_on(name, home(tmp_path)))
    assert [told(finding) for finding in found.values()] == [
        ("ok", "https://huggingface.co answers", ()),
        ("ok", "none is set; only gated and private models need one", ()),
    ]


def test_without_a_network_what_is_here_works(tmp_path: Path) -> None:
    finding = look("hub", context_on("linux_cpu", {"reach": NO_NETWORK, **home(tmp_path)}))
    assert told(finding) == (
        "skipped",
        f"https://huggingface.co is not reachable: {NO_NETWORK}; local models and datasets work",
        (),
    )


def test_what_would_have_to_be_downloaded(tmp_path: Path, config: str) -> None:
    missing = "the model Qwen/Qwen2.5-0.5B-Instruct", "the dataset openai/gsm8k"
    finding = look(
        "hub", context_on("linux_cpu", {"reach": NO_NETWORK, **home(tmp_path)}, config_name=config)
    )
    assert told(finding) == (
        "error",
        f"https://huggingface.co does not answer ({NO_NETWORK}), and {missing[0]} and {missing[1]} would "
        "have to be downloaded",
        (
            "hf download Qwen/Qwen2.5-0.5B-Instruct",
            "hf download openai/gsm8k --repo-type dataset",
        ),
    )
    reached = look("hub", context_on("linux_cpu", home(tmp_path), config_name=config))
    assert told(reached)[:2] == (
        "ok",
        f"https://huggingface.co answers; to download: {missing[0]}, {missing[1]}",
    )


def test_what_was_downloaded_is_found(tmp_path: Path, config: str) -> None:
    snapshot = tmp_path / "hf/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    data = str(tmp_path / "hf/hub/datasets--openai--gsm8k")
    changes = {"reach": NO_NETWORK, "folders": {data: ["snapshots"]}, **home(tmp_path)}
    finding = look("hub", context_on("linux_cpu", changes, config_name=config))
    assert (finding.severity, finding.numbers["missing"]) == ("skipped", [])


def test_offline_mode(tmp_path: Path, config: str) -> None:
    offline = home(tmp_path, HF_HUB_OFFLINE="1")
    assert told(look("hub", context_on("linux_cpu", offline))) == (
        "skipped",
        "HF_HUB_OFFLINE is set: nothing is downloaded",
        (),
    )
    finding = look("hub", context_on("linux_cpu", offline, config_name=config))
    assert (finding.severity, finding.commands) == ("error", ("unset HF_HUB_OFFLINE",))
    assert look("hub", context_on("linux_cpu", home(tmp_path, HF_HUB_OFFLINE="0"))).seen.endswith(" answers")


def test_a_mirror_is_named_without_its_password(tmp_path: Path, config: str) -> None:
    changes = {"reach": "Connection refused", **home(tmp_path, HF_ENDPOINT="https://ada:pw@mirror.example/")}
    finding = look("hub", context_on("linux_cpu", changes, config_name=config))
    assert finding.seen.startswith("https://mirror.example does not answer (Connection refused)")
    assert finding.commands[-1] == "unset HF_ENDPOINT"
    assert "pw" not in str(finding.as_row())
    assert without_password("https://huggingface.co") == "https://huggingface.co"
    assert without_password("https://me:p@77@mirror.example/a@b") == "https://mirror.example/a@b"


# --- a real server -------------------------------------------------------------------------------


class Refusing(BaseHTTPRequestHandler):
    """Answers, if only to refuse."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server on this machine."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_server_is_reached_or_not(server: str) -> None:
    assert Machine().reach(server) == ""


class Reaching(RecordedMachine):
    """A recorded machine that asks real servers."""

    def reach(self, url: str) -> str:
        return Machine.reach(self, url)


def test_a_mirror_with_a_password_is_reached(server: str, tmp_path: Path) -> None:
    """urllib would take user and password for a part of the host's name, or of its port, and show it."""
    address = server.replace("://", "://me:pw77@")
    finding = look("hub", Context(machine=Reaching("linux_cpu", **home(tmp_path, HF_ENDPOINT=address))))
    assert told(finding) == ("ok", f"{server} answers", ())
    assert finding.numbers["endpoint"] == server
    assert Machine().reach(address) != ""
    assert "pw77" in Machine().reach("http://me:pw77@127.0.0.1")  # what is kept out


def test_a_server_that_is_not_there() -> None:
    assert "refused" in Machine().reach("http://127.0.0.1:9")
    assert Machine().reach("file:///etc/hostname") == "it is not a web address"
    assert Machine().reach("http://a b") != ""
    assert Machine().reach("http://[") != ""


# --- token ---------------------------------------------------------------------------------------


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    secret = "hf_" + "abcdefghij"
    finding = look("hub-token", context_on("linux_cpu", home(tmp_path, HF_TOKEN=secret)))
    assert told(finding) == ("ok", "a token is set (HF_TOKEN)", ())
    broken = look("hub-token", context_on("linux_cpu", home(tmp_path, HF_TOKEN=f"'{secret}'")))
    assert told(broken) == (
        "warning",
        "the token of HF_TOKEN has quotation marks around it",
        ("unset HF_TOKEN", "hf auth login"),
    )
    assert secret not in str(broken.as_row())


def test_a_token_in_its_file(tmp_path: Path) -> None:
    path = str(tmp_path / "hf/token")
    stored = {**home(tmp_path), "files": {path: "hf_abcdefghij\n"}}
    assert look("hub-token", context_on("linux_cpu", stored)).seen == f"a token is set ({path})"
    two = {**home(tmp_path), "files": {path: "hf_abc\nhf_def\n"}}
    finding = look("hub-token", context_on("linux_cpu", two))
    assert told(finding) == (
        "warning",
        f"the token of {path} has spaces or line breaks in it",
        ("hf auth login",),
    )
    empty = {**home(tmp_path), "files": {path: "\n"}}
    assert look("hub-token", context_on("linux_cpu", empty)).severity == "ok"
