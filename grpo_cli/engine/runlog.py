"""A run's log files: training_log.jsonl and completions.jsonl, one JSON object a line, flushed.

A checkpoint remembers how long each file was; a resumed run cuts them there, so that the log has every
step once. What a full disk refuses is kept and written with the next line.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_cli.files import open_log
from grpo_cli.types import RolloutGroup

METRICS = "training_log.jsonl"
COMPLETIONS = "completions.jsonl"


class LogFile:
    """One file of lines, appended to."""

    def __init__(self, path: Path, position: int | None) -> None:
        """`position`: the file's length to go on from, or None: its end."""
        self.path = path
        self._file = open_log(path)
        if position is not None and position < path.stat().st_size:
            self._file.truncate(position)
            self._file.seek(position)
        self._waiting = b""  # lines that the disk refused
        self._written = self._file.tell()

    @property
    def position(self) -> int:
        """Bytes of the file with every line in it."""
        return self._written + len(self._waiting)

    def add(self, line: dict[str, Any]) -> None:
        """Write a line, or keep it for the next time if the disk refuses it."""
        self._waiting += (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self.flush()

    def flush(self) -> bool:
        """Try to write what waits; whether nothing waits any more."""
        try:
            while self._waiting:
                count = os.write(self._file.fileno(), self._waiting)
                self._written += count
                self._waiting = self._waiting[count:]
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.flush()
        self._file.close()


class RunLog:
    """Appends lines to the two files of a run's folder; writes nothing where `enabled` is false."""

    def __init__(
        self, folder: Path, enabled: bool = True, positions: Mapping[str, int] | None = None
    ) -> None:
        """`positions`: where to cut the files, of a checkpoint that the run goes on from."""
        names = (METRICS, COMPLETIONS) if enabled else ()
        self._earlier = dict(positions or {})  # of files that are not written now
        self._files = {name: LogFile(folder / name, self._earlier.get(name)) for name in names}

    def metrics(self, line: dict[str, Any]) -> None:
        """One line of a step's or an evaluation's numbers."""
        self._add(METRICS, line)

    def completions(self, step: int, groups: list[RolloutGroup], count: int) -> None:
        """Up to `count` completions of a step, taken in turn from its groups."""
        by_turn = [(group, turn) for turn in range(len(groups[0].rollouts)) for group in groups]
        for group, turn in by_turn[:count]:
            rollout = group.rollouts[turn]
            self._add(
                COMPLETIONS,
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

    def positions(self) -> dict[str, int]:
        """How long each file is, with every line so far."""
        return {**self._earlier, **{name: file.position for name, file in self._files.items()}}

    def sync(self) -> None:
        """Have the disk hold every line, before a checkpoint refers to its place. OSError if it does not."""
        for file in self._files.values():
            if not file.flush():
                raise OSError(errno.ENOSPC, "lines of the log could not be written")
            os.fsync(file._file.fileno())

    def close(self) -> None:
        """Close both files."""
        for file in self._files.values():
            file.close()

    def _add(self, name: str, line: dict[str, Any]) -> None:
        if name in self._files:
            self._files[name].add(line)
