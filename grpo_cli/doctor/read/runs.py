"""The runs in a folder: state, steps, accuracies and size of each, from its files alone.

    for run in found_runs(Path("outputs")):
        print(run.name, run.state, run.step)        # smoke-test done 60

A run's folder may have been received: every value is validated, nothing in it is executed, and nothing is
written. Only the folder itself, its children and their children are looked at.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from grpo_cli.config.toml_source import read_document
from grpo_cli.doctor.read.json_lines import json_object, texts
from grpo_cli.doctor.read.run_log import number
from grpo_cli.doctor.read.stale_files import is_locked, measured
from grpo_cli.engine.run_dir.ending import read_ending
from grpo_cli.engine.run_dir.lock import LOCK_FILE
from grpo_cli.engine.run_dir.log import METRICS
from grpo_cli.engine.run_dir.manifest import FINAL, MANIFEST, checkpoints, step_in_manifest
from grpo_cli.engine.run_dir.names import CONFIG_FILE
from grpo_cli.engine.run_dir.run_state import STATE_FILE
from grpo_cli.folders import children
from grpo_cli.untrusted_json import DamagedFile, Schema, read_as

DEEPEST = 2  # levels of folders below the one that is given
MOST_FOLDERS = 20_000  # looked at
LARGEST_STEP = 1 << 53
LARGEST_PID = 1 << 22  # of Linux; macOS' are smaller
SIZE_SECONDS = 1.0  # spent on one run's size
STATES = ("running", "done", "interrupted", "failed")


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run as its folder tells it. Texts are foreign."""

    path: Path
    model: str
    data: str
    state: str  # one of STATES
    pid: int | None  # of a running run
    reason: str  # of a failed run
    started: str  # ISO 8601, local; empty if unknown
    changed: float  # seconds since 1970: the log's last line
    step: int
    total_steps: int | None
    accuracies: list[tuple[int, float]]  # (step, fraction) of each evaluation
    size: int  # bytes, without what links lead to
    is_whole_size: bool  # False: measuring took too long
    is_link: bool  # the folder is reached through a symbolic link

    @property
    def name(self) -> str:
        """The run's name, that of its folder."""
        return self.path.absolute().name

    def as_row(self) -> dict[str, Any]:
        """The run for `--json`."""
        first, last = (self.accuracies[at][1] if self.accuracies else None for at in (0, -1))
        return {
            "path": str(self.path.absolute()),
            "name": self.name,
            "model": self.model,
            "dataset": self.data,
            "state": self.state,
            "pid": self.pid,
            "reason": self.reason or None,
            "started": self.started or None,
            "changed": datetime.fromtimestamp(self.changed).astimezone().isoformat(timespec="seconds"),
            "step": self.step,
            "total_steps": self.total_steps,
            "accuracy_before": first,
            "accuracy_after": last,
            "accuracies": [{"step": step, "accuracy": value} for step, value in self.accuracies],
            "bytes": self.size,
            "is_link": self.is_link,
        }


class _Progress(Schema):
    """The fields of trainer_state.json that are shown."""

    step: int
    total_steps: int
    started_at: Annotated[str, Field(max_length=64)] = ""


def found_runs(folder: Path) -> list[FoundRun]:
    """Every run in a folder, or the folder itself if it is a run's; the latest changed first."""
    runs = [read_run(path) for path in run_folders(folder)]
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def run_folders(folder: Path, levels: int = DEEPEST) -> list[Path]:
    """The run folders at most so many levels below `folder`; links are listed and not descended into."""
    ahead, found, seen = [(folder, levels)], [], 0
    while ahead and seen < MOST_FOLDERS:
        path, below = ahead.pop()
        seen += 1
        if is_run(path):
            found.append(path)
        elif below and (path == folder or not path.is_symlink()):
            ahead += [(child, below - 1) for child in _subfolders(path)]
    return sorted(found)


def _subfolders(path: Path) -> Iterator[Path]:
    try:
        yield from (child for child in children(path) if not child.name.startswith(".") and child.is_dir())
    except OSError:  # no permission
        return


def is_run(folder: Path) -> bool:
    """True for a folder with a run's configuration and its log, its lock or a checkpoint with a manifest."""
    try:
        if not is_file(folder / CONFIG_FILE):
            return False
        marks = is_file(folder / METRICS) or is_file(folder / LOCK_FILE)
        return marks or any(is_file(path / MANIFEST) for path in checkpoints(folder))
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """True for a regular file that is not a link."""
    return path.is_file() and not path.is_symlink()


def read_run(folder: Path) -> FoundRun:
    """The run in a folder for which `is_run` is true. Damaged files count as missing ones."""
    settings = settings_of(folder)
    logged, accuracies, has_log = read_log(folder / METRICS)
    progress = newest_progress(folder)
    step = max(logged, progress.step if progress else 0)
    state, pid, reason = state_of(folder, logged)
    size, is_whole = measured(folder, SIZE_SECONDS)
    total = progress.total_steps if progress else 0
    return FoundRun(
        path=folder,
        model=_text(settings, "model_name"),
        data=_text(settings, "dataset"),
        state=state,
        pid=pid,
        reason=reason,
        started=progress.started_at if progress else "",
        changed=modified(folder / (METRICS if has_log else CONFIG_FILE)),
        step=step,
        total_steps=total if total >= max(step, 1) else None,  # a resumed run may be longer
        accuracies=accuracies,
        size=size,
        is_whole_size=is_whole,
        is_link=folder.is_symlink(),
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """The keys of the run's config.toml as they are written; empty if it is damaged."""
    return {entry.key: entry.value for entry in read_document(folder / CONFIG_FILE, CONFIG_FILE).entries}


def _text(settings: dict[str, Any], key: str) -> str:
    value = settings.get(key)
    return value if isinstance(value, str) else ""


def read_log(path: Path) -> tuple[int, list[tuple[int, float]], bool]:
    """The log's last step, its accuracies by step, and True if there is a log."""
    if not is_file(path):
        return 0, [], False
    written, accuracies = texts(path), []
    for text in written:
        line = json_object(text) if '"eval_accuracy"' in text else None
        accuracy = number(line, "eval_accuracy") if line else None
        if line and accuracy is not None and 0 <= accuracy <= 1:
            accuracies.append((_step(line), accuracy))
    last = next((line for text in reversed(written[-100:]) if (line := json_object(text))), {})
    return _step(last), accuracies, True


def _step(line: dict[str, Any]) -> int:
    step = number(line, "step") or 0
    return int(step) if 0 <= step < LARGEST_STEP else 0


def newest_progress(folder: Path) -> _Progress | None:
    """The progress in the state of the highest step; None without a readable one."""
    found = []
    for path in checkpoints(folder):
        try:
            found.append(read_as(_Progress, path / STATE_FILE))
        except (OSError, DamagedFile):
            continue
    valid = [state for state in found if 0 <= state.step <= state.total_steps < LARGEST_STEP]
    return max(valid, key=lambda state: state.step, default=None)


def state_of(folder: Path, logged: int) -> tuple[str, int | None, str]:
    """The state, the process id of a running run, and the reason of a failed one.

    A run is running while its lock is held, and done once `final` holds its last step. `logged`: the last
    step in its log.
    """
    if is_file(folder / LOCK_FILE) and is_locked(folder / LOCK_FILE):
        return "running", pid_in(folder / LOCK_FILE), ""
    final = folder / FINAL
    if is_file(final / MANIFEST):
        newest = max(checkpoints(folder), key=step_in_manifest)
        if newest == final and step_in_manifest(final)[0] >= logged:
            return "done", None, ""
    ending = read_ending(folder)
    if ending is not None and ending.state == "failed":
        return "failed", None, ending.reason
    return "interrupted", None, ""


def pid_in(path: Path) -> int | None:
    """The process id in a lock file; None if it holds something else."""
    try:
        with path.open("rb") as file:
            text = file.read(20).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and 0 < int(text) <= LARGEST_PID else None


def modified(path: Path) -> float:
    """Seconds since 1970 of a file's last change, within the dates that can be shown; 0 if unknown."""
    try:
        return min(max(0.0, os.lstat(path).st_mtime), 1e11)
    except OSError:
        return 0.0
