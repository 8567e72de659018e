"""`grpo convert --push`: shown first, sent after a yes, and nothing without."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import Result
from typer.testing import CliRunner

from grpo_cli.cli import push
from grpo_cli.cli.main import app
from tests.support.llama import write_llama


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The uploads that a stand-in for the hub's library was asked for."""
    calls: list[dict[str, Any]] = []

    class StandIn:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append({"repo_id": repo_id, **options})

        def upload_folder(self, **options: Any) -> None:
            calls.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", StandIn)
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "llama")
    return calls


def grpo(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(app, ["convert", "llama", "--to", "hf", "--no-verify", *words], **options)


def test_without_a_terminal_nothing_is_sent_before_yes(sent: list[dict[str, Any]]) -> None:
    done = grpo("--push", "ada/llama")
    assert done.exit_code == 0, done.stderr
    assert "to ada/llama (private if it is new):" in done.stderr
    assert "model.safetensors" in done.stderr
    assert "library_name: transformers" in done.stderr
    assert "To upload this, add --yes to the command." in done.stderr
    assert "Nothing was uploaded." in done.stderr
    assert sent == []
    assert not Path("models/llama-hf/README.md").exists()


@pytest.mark.parametrize("words", [["--yes"], ["--yes", "--public"]])
def test_with_yes_it_is_sent(words: list[str], sent: list[dict[str, Any]]) -> None:
    done = grpo("--push", "ada/llama", *words)
    assert done.exit_code == 0, done.stderr
    made, uploaded = sent
    assert made == {"repo_id": "ada/llama", "private": "--public" not in words, "exist_ok": True}
    assert uploaded["folder_path"] == str(Path("models/llama-hf"))
    assert {"README.md", "config.json", "model.safetensors"} <= set(uploaded["allow_patterns"])
    assert done.stdout.splitlines()[-1].endswith("/ada/llama")
    assert Path("models/llama-hf/README.md").read_text().startswith("---\nlibrary_name: transformers\n")


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\n"])
def test_on_a_terminal_it_asks(
    answer: str, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "is_interactive", lambda _: True)
    done = grpo("--push", "ada/llama", input=answer)
    assert done.exit_code == 0, done.stderr
    assert "Upload to ada/llama? [y/N]" in done.stderr
    assert len(sent) == (2 if answer == "y\n" else 0)


def test_mistakes_are_told_before_the_conversion(sent: list[dict[str, Any]]) -> None:
    assert "does not name a repository of the hub" in grpo("--push", "llama").stderr
    assert "need --push OWNER/NAME" in " ".join(grpo("--yes").stderr.split())
    assert sent == []
    assert not Path("models").exists()
