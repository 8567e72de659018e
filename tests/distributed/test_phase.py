"""Every phase is set by its name in the enum: one definition of the texts."""

import re
from pathlib import Path

import pytest

from grpo_cli.distributed.phase import Phase
from grpo_cli.distributed.world import ALONE

PACKAGE = Path(__file__).parents[2] / "grpo_cli"
SET = re.compile(r"\bset_phase\(\"([^\"]+)\"\)")


def test_texts_that_are_set_are_phases() -> None:
    texts = {text for path in PACKAGE.rglob("*.py") for text in SET.findall(path.read_text("utf-8"))}
    assert texts <= {*Phase}


def test_unknown_text_is_not_a_phase() -> None:
    ALONE.set_phase("scoring")
    with pytest.raises(ValueError, match="dreaming"):
        ALONE.set_phase("dreaming")


def test_a_phase_reads_as_its_words() -> None:
    assert f"while {Phase.COPYING}" == "while copying the checkpoint to all ranks"
