"""Fixtures of the command line: an ordinary terminal, an empty folder, and a command that fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_cli.cli.main import app


@pytest.fixture
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own surroundings decide nothing."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def failing() -> Iterator[list[BaseException]]:
    """A command `fail` that raises what the test puts into the list."""
    raised: list[BaseException] = []

    def fail() -> None:
        raise raised[0]

    app.command("fail")(fail)
    yield raised
    app.registered_commands.pop()


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is empty, and no configuration is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
