"""Names of the journals of environments' answers in a run's folder, and their removal; imports no MLX.

remove_answers(run_dir)       # answers.jsonl and those of the other ranks
"""

import contextlib
from pathlib import Path

from grpo_cli.engine.run_dir.names import ANSWERS

NAME, PATTERN = "answers.jsonl", ANSWERS


def remove_answers(place: Path) -> None:
    """Delete a journal, or all of a run's folder."""
    for path in place.glob(PATTERN) if place.is_dir() else [place]:
        with contextlib.suppress(OSError):
            path.unlink()
