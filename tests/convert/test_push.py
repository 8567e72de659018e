"""Uploads with a stand-in for the hub's library: what is planned, asked and sent."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.push import check_repository, plan, send

http = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx or its successor


class StandIn:
    """Records the calls; fails with `error` at the upload if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.error = error

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", (repo_id, private, exist_ok)))

    def upload_folder(
        self, *, repo_id: str, folder_path: str, commit_message: str, allow_patterns: list[str]
    ) -> None:
        assert commit_message
        self.calls.append(("upload_folder", (repo_id, folder_path, allow_patterns)))
        if self.error:
            raise self.error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "m"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(100))
    (made / "link").symlink_to("/etc/hosts")
    return made


def test_a_plan_sends_nothing(folder: Path) -> None:
    upload = plan(folder, "ada/m", "# card\n")
    assert upload.files == [("README.md", 7), ("config.json", 2), ("model.safetensors", 100)]
    assert (upload.size, upload.is_private) == (109, True)
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("is_private", [True, False])
def test_what_was_planned_is_sent(folder: Path, is_private: bool) -> None:
    hub = StandIn()
    address = send(plan(folder, "ada/m", "# card\n", is_private), hub)
    assert address.endswith("/ada/m")
    names = ["README.md", "config.json", "model.safetensors"]
    assert hub.calls == [
        ("create_repo", ("ada/m", is_private, True)),
        ("upload_folder", ("ada/m", str(folder), names)),
    ]
    assert (folder / "README.md").read_text() == "# card\n"


def answer(status: int) -> HfHubHTTPError:
    request = http.Request("POST", "https://huggingface.co/api", headers={"authorization": "x"})
    return HfHubHTTPError("no", response=http.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "told", "hint"),
    [
        (LocalTokenNotFoundError("none"), "does not let you write to ada/m", "`hf auth login`"),
        (answer(403), "does not let you write to ada/m", "`hf auth login`"),
        (answer(500), "ada/m failed: The hub failed for ada/m: 500", "run the same command again"),
        (http.ConnectError("gone"), "the upload to ada/m failed: The hub", "run the same command again"),
    ],
)  # fmt: skip
def test_refusals(folder: Path, error: Exception, told: str, hint: str) -> None:
    with pytest.raises(ConversionError) as raised:
        send(plan(folder, "ada/m", "# card\n"), StandIn(error))
    assert told in raised.value.message
    assert hint in raised.value.hint
    assert str(folder) in raised.value.message  # the model is kept


@pytest.mark.parametrize("name", ["m", "a/b/c", "ada/", "ada/m m", "../m", "ada/-m-"])
def test_names_that_are_no_repository(name: str) -> None:
    with pytest.raises(ConversionError, match="does not name a repository of the hub"):
        check_repository(name)
    check_repository("ada/m-1.5_x")


def test_adapters_on_a_folder_of_this_machine_are_of_no_use_to_others(folder: Path, tmp_path: Path) -> None:
    config = '{"peft_type": "LORA", "base_model_name_or_path": "%s", "r": 2, "lora_alpha": 4}'
    (folder / "adapter_config.json").write_text(config % tmp_path)
    with pytest.raises(ConversionError, match="a folder that only this machine has"):
        plan(folder, "ada/m", "# card\n")
    (folder / "adapter_config.json").write_text(config % "owner/name")
    assert len(plan(folder, "ada/m", "# card\n").files) == 4
