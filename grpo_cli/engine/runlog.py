"""A run's log files: training_log.jsonl and completions.jsonl, one JSON object a line, flushed."""

import json
from pathlib import Path
from typing import Any, TextIO

from grpo_cli.types import RolloutGroup


class RunLog:
    """Appends lines to the two files of a run's folder; writes nothing where `enabled` is false."""

    def __init__(self, folder: Path, enabled: bool = True) -> None:
        self._metrics = _open(folder / "training_log.jsonl") if enabled else None
        self._completions = _open(folder / "completions.jsonl") if enabled else None

    def metrics(self, line: dict[str, Any]) -> None:
        """One line of a step's or an evaluation's numbers."""
        _write(self._metrics, line)

    def completions(self, step: int, groups: list[RolloutGroup], count: int) -> None:
        """Up to `count` completions of a step, taken in turn from its groups."""
        by_turn = [(group, turn) for turn in range(len(groups[0].rollouts)) for group in groups]
        for group, turn in by_turn[:count]:
            rollout = group.rollouts[turn]
            _write(
                self._completions,
                {
                    "step": step,
                    "prompt": group.example.messages,
                    "answer": group.example.answer,
                    "completion": rollout.text,
                    "rewards": rollout.rewards,
                    "reward": rollout.reward,
                    "advantage": rollout.advantage,
                    "stop_reason": rollout.stop_reason,
                    "tokens": len(rollout.token_ids),
                },
            )

    def close(self) -> None:
        """Close both files."""
        for file in (self._metrics, self._completions):
            if file:
                file.close()


def _open(path: Path) -> TextIO:
    return path.open("a", encoding="utf-8")


def _write(file: TextIO | None, line: dict[str, Any]) -> None:
    if file:
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
