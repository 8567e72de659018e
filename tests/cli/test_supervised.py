"""The child's end of `--supervise`: when it tells its parent what, and a GPU that does not come back."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from grpo_cli.cli import supervised
from grpo_cli.cli.main import app
from grpo_cli.cli.supervised import become_supervisor, options, start_same_device, tell_supervisor
from grpo_cli.engine import events
from grpo_cli.engine import resume as engine
from grpo_cli.engine.recovery import DeviceLost
from grpo_cli.errors import ConfigError
from grpo_cli.supervise import LAST_DEVICE, PIPE, Supervisor

STARTED = events.RunStarted(
    run_dir=Path("run"), total_steps=4, model="tiny", parameters=1, trainable_parameters=1, device="cpu",
    train_examples=1, skipped_prompts=0,
)  # fmt: skip


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator["Parent"]:
    pipe = Parent()
    monkeypatch.setenv(PIPE, str(pipe.writing))
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


class Parent(Supervisor):
    """A parent without a child: `heard` reads what it was told so far."""

    def __init__(self) -> None:
        super().__init__(["resume"])
        self.reading, self.writing = os.pipe()

    def heard(self) -> tuple[str, list[str]]:
        self._read(self.reading)
        return self.device, self.again


def test_the_parent_hears_words_of_any_characters(parent: Parent, tmp_path: Path) -> None:
    tell_supervisor("cpu")
    assert parent.heard() == ("cpu", [])
    folder = tmp_path / "a run\nof übung"
    words = options(True, ["max_steps=9", 'reward_functions=["a.py:f"]'], accept_changes=True)
    tell_supervisor("cuda", folder, words)
    tell_supervisor("cpu")  # of a process that replaced the first one
    sets = ["--set", "max_steps=9", "--set", 'reward_functions=["a.py:f"]']
    assert parent.heard() == ("cpu", [str(folder), "--quiet", "--accept-changes", *sets])


def test_a_resumed_run_tells_its_folder_once_its_configuration_is_written(
    parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until RunStarted a restart needs the whole command: `--restart` is not done yet."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    heard: list[Any] = []

    def resume_run(
        _path: Path, _overrides: list[str], listener: events.Listener, *_: Any, **named: Any
    ) -> None:
        assert named == {"restart": True, "accept_changes": True}
        heard.append(parent.heard())
        listener(STARTED)
        heard.append(parent.heard())

    monkeypatch.setattr(engine, "resume", resume_run)
    words = ["resume", "run", "--restart", "--accept-changes", "--max-steps", "9", "--quiet"]
    assert CliRunner().invoke(app, words).exit_code == 0
    again = [str(tmp_path / "run"), "--quiet", "--accept-changes", "--set", "max_steps=9"]
    assert heard == [("cpu", []), ("cpu", again)]


@pytest.mark.parametrize(("before", "now"), [("cpu", "cpu"), ("cuda", "cuda"), ("", "cpu"), ("cpu", "metal")])
def test_a_device_that_is_there_is_taken(
    before: str, now: str, parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAST_DEVICE, before)
    monkeypatch.setattr(supervised, "start_device", lambda _exact: SimpleNamespace(kind=now))
    assert start_same_device() == now
    assert parent.heard() == (now, [])


@pytest.mark.parametrize("before", ["cuda", "metal"])
def test_a_restarted_run_does_not_move_from_a_lost_gpu_to_the_cpu(
    before: str, parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAST_DEVICE, before)
    monkeypatch.setattr(supervised, "start_device", lambda _exact: SimpleNamespace(kind="cpu"))
    with pytest.raises(DeviceLost, match=f"the run had the device `{before}`") as error:
        start_same_device()
    assert error.value.exit_code == 75
    assert parent.heard() == ("", [])  # so that the next restart looks for the GPU, too


def test_a_gpu_that_is_asked_for_is_lost_only_if_the_run_had_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_exact: bool) -> None:
        raise ConfigError("Device not available: GRPO_DEVICE=cuda")

    monkeypatch.setattr(supervised, "start_device", refuse)
    monkeypatch.delenv(LAST_DEVICE, raising=False)
    with pytest.raises(ConfigError):
        start_same_device()
    monkeypatch.setenv(LAST_DEVICE, "cuda")
    with pytest.raises(DeviceLost):
        start_same_device()


@pytest.mark.parametrize(("rank", "words"), [("0", supervised.NO_EFFECT), ("1", "")])
def test_under_a_launcher_the_first_rank_says_that_nothing_is_supervised(
    rank: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = SimpleNamespace(rank=int(rank))
    monkeypatch.setattr("grpo_cli.distributed.topology.find_rank", lambda _environment: place)
    become_supervisor()
    assert " ".join(capsys.readouterr().err.split()) == words
