"""Fixtures of conversions: a folder of its own, and a small llama in it."""

from pathlib import Path

import pytest

from tests.support.llama import write_llama


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is one of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A small llama in transformers' format."""
    return write_llama(tmp_path / "llama")
