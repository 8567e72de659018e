"""Endings chosen by chance from all of `python -m tests.bench.endings`: one of every place, and a signal."""

import random
from pathlib import Path

import pytest

from tests.bench import endings

CHOSEN = {
    place: random.Random(place).choice([case for case in endings.cases() if case.fault.place == place])
    for place in (*endings.PLACES, "rollout 3", "update 3")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that is left alone."""
    folder = tmp_path_factory.mktemp("endings")
    assert endings.walk(folder, []) == {}
    return folder


@pytest.mark.parametrize("place", CHOSEN)
def test_whatever_ends_a_run_it_is_saved_said_and_resumed(place: str, folder: Path) -> None:
    assert endings.problems(folder, CHOSEN[place]) == []
