"""A run's log files: training_log.jsonl and completions.jsonl, one JSON object a line, flushed.

A checkpoint remembers how long each file was; a resumed run cuts them there, so that the log has every
step once. What a full disk refuses is kept and written with the next line.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_cli.files import open_log, sync_open
from grpo_cli.foreign_text import safe_json
from grpo_cli.rewards.table import unique
from grpo_cli.types import Rollout, RolloutGroup

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
        self.refusal: OSError | None = None  # and its reason, until it takes them
        self._written = self._file.tell()

    @property
    def position(self) -> int:
        """Bytes of the file with every line in it."""
        return self._written + len(self._waiting)

    def add(self, lines: bytes) -> None:
        """Write whole lines, or keep them for the next time if the disk refuses them."""
        self._waiting += lines
        self.flush()

    def flush(self) -> None:
        """Try to write what waits. `refusal` says why something still waits."""
        try:
            while self._waiting:
                count = os.write(self._file.fileno(), self._waiting)
                self._written += count
                self._waiting = self._waiting[count:]
            self.refusal = None
        except OSError as error:
            self.refusal = error

    def sync(self) -> None:
        """Have the disk hold every line. Raises OSError where it does not."""
        self.flush()
        if self.refusal is not None:
            raise self.refusal
        sync_open(self._file.fileno())

    def close(self) -> None:
        """Let go of the file. A disk that refuses now was told of: it must not hide what ends a run."""
        self.flush()
        with contextlib.suppress(OSError):
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

    def evaluation(self, line: dict[str, Any]) -> None:
        """One line of an evaluation's numbers."""
        self._add({METRICS: [line]})

    def step(self, line: dict[str, Any], groups: list[RolloutGroup], count: int) -> None:
        """A step's numbers, and up to `count` of its completions, taken in turn from its groups."""
        by_turn = [(group, turn) for turn in range(len(groups[0].rollouts)) for group in groups]
        chosen = [completion(line["step"], group, group.rollouts[turn]) for group, turn in by_turn[:count]]
        self._add({METRICS: [line], COMPLETIONS: chosen})

    def positions(self) -> dict[str, int]:
        """How long each file is, with every line so far."""
        return {**self._earlier, **{name: file.position for name, file in self._files.items()}}

    def sync(self) -> None:
        """Have the disk hold every line, before a checkpoint refers to its place. OSError if it does not."""
        for file in self._files.values():
            file.sync()

    @property
    def refusal(self) -> str | None:
        """Why lines wait, and of which file; None: the disk has all."""
        refusals = [(file.refusal, file.path) for file in self._files.values() if file.refusal is not None]
        return next((f"{error.strerror}: {path}" for error, path in refusals), None)

    def close(self) -> None:
        """Close both files."""
        for file in self._files.values():
            file.close()

    def _add(self, lines: dict[str, list[dict[str, Any]]]) -> None:
        """Add lines to files: to all of them, or to none where one cannot be made."""
        made = {name: "".join(f"{safe_json(line)}\n" for line in lines[name]).encode() for name in lines}
        for name in made.keys() & self._files:
            self._files[name].add(made[name])


def completion(step: int, group: RolloutGroup, rollout: Rollout) -> dict[str, Any]:
    """The line of one completion, with what rewards logged of it."""
    line = {
        "step": step,
        "prompt": group.example.messages,
        "answer": group.example.answer,
        "completion": rollout.text,
        "rewards": rollout.rewards,
        "reward": rollout.score,
        "advantage": rollout.advantage,
        "stop_reason": rollout.stop_reason,
        "tokens": len(rollout.token_ids),
    }
    return line | {unique(name, line): value for name, value in rollout.extra.items()}
