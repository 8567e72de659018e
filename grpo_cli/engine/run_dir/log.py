"""A run's log files: training_log.jsonl and completions.jsonl, one JSON object per line, flushed.

Checkpoints store the length of each file. A resumed run truncates them to it, so that every step is logged
once. Lines that a full disk refuses are kept in memory and written with the next line.
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
    """One log file, opened for appending."""

    def __init__(self, path: Path, position: int | None) -> None:
        """`position`: length in bytes to truncate the file to; None = append at its end."""
        self.path = path
        self._file = open_log(path)
        if position is not None and position < path.stat().st_size:
            self._file.truncate(position)
            self._file.seek(position)
        self._waiting = b""  # lines that are not written yet
        self.refusal: OSError | None = None  # the reason, until they are written
        self._written = self._file.tell()

    @property
    def position(self) -> int:
        """Length of the file in bytes once all lines are written."""
        return self._written + len(self._waiting)

    def add(self, lines: bytes) -> None:
        """Write whole lines; if the disk refuses them, keep them for the next call."""
        self._waiting += lines
        self.flush()

    def flush(self) -> None:
        """Try to write the waiting lines. On failure `refusal` is the reason."""
        try:
            while self._waiting:
                count = os.write(self._file.fileno(), self._waiting)
                self._written += count
                self._waiting = self._waiting[count:]
            self.refusal = None
        except OSError as error:
            self.refusal = error

    def sync(self) -> None:
        """Write all lines and flush them to the disk. Raises OSError on failure."""
        self.flush()
        if self.refusal is not None:
            raise self.refusal
        sync_open(self._file.fileno())

    def close(self) -> None:
        """Close the file. Errors are ignored here, since they must not hide the error that ends a run."""
        self.flush()
        with contextlib.suppress(OSError):
            self._file.close()


class RunLog:
    """The two log files of a run's folder; writes nothing if `enabled` is false."""

    def __init__(
        self, folder: Path, enabled: bool = True, positions: Mapping[str, int] | None = None
    ) -> None:
        """`positions`: lengths in bytes to truncate the files to, from the checkpoint resumed from."""
        names = (METRICS, COMPLETIONS) if enabled else ()
        self._earlier = dict(positions or {})  # lengths of files that are not written now
        self._files = {name: LogFile(folder / name, self._earlier.get(name)) for name in names}

    def evaluation(self, line: dict[str, Any]) -> None:
        """Write the line of an evaluation."""
        self._add({METRICS: [line]})

    def step(self, line: dict[str, Any], groups: list[RolloutGroup], count: int) -> None:
        """Write the line of a step and up to `count` of its completions, taken from its groups in turn."""
        by_turn = [(group, turn) for turn in range(len(groups[0].rollouts)) for group in groups]
        chosen = [completion(line["step"], group, group.rollouts[turn]) for group, turn in by_turn[:count]]
        self._add({METRICS: [line], COMPLETIONS: chosen})

    def positions(self) -> dict[str, int]:
        """Length in bytes of each file once all lines so far are written."""
        return {**self._earlier, **{name: file.position for name, file in self._files.items()}}

    def write_to(self, folder: Path) -> None:
        """Append to files of another folder from now on. Raises OSError if one cannot be opened."""
        for name, file in self._files.items():
            file.close()
            self._files[name] = LogFile(folder / name, None)

    def sync(self) -> None:
        """Flush all lines to the disk, before a checkpoint stores the lengths. Raises OSError on failure."""
        for file in self._files.values():
            file.sync()

    @property
    def refusal(self) -> str | None:
        """The reason and the file if lines are not written yet; None if all are written."""
        refusals = [(file.refusal, file.path) for file in self._files.values() if file.refusal is not None]
        return next((f"{error.strerror}: {path}" for error, path in refusals), None)

    def close(self) -> None:
        """Close both files."""
        for file in self._files.values():
            file.close()

    def _add(self, lines: dict[str, list[dict[str, Any]]]) -> None:
        """Add lines to both files, or to neither if one of the lines cannot be converted to JSON."""
        made = {name: "".join(f"{safe_json(line)}\n" for line in lines[name]).encode() for name in lines}
        for name in made.keys() & self._files:
            self._files[name].add(made[name])


def completion(step: int, group: RolloutGroup, rollout: Rollout) -> dict[str, Any]:
    """The line of one completion in completions.jsonl, with the values that rewards gave to log_extra."""
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
    if rollout.answer_text is not None:  # strip_thinking
        line |= {"answer_text": rollout.answer_text}
    if rollout.own_text:  # an environment wrote the rest
        line |= {"own_text": rollout.own_text, "forced_tokens": len(rollout.token_ids) - rollout.length}
    if rollout.use and (rollout.use.calls or rollout.use.turns > 1):
        line |= {"turns": rollout.use.turns, "tool_calls": rollout.use.calls, "messages": rollout.messages}
    return line | {unique(name, line): value for name, value in rollout.extra.items()}
