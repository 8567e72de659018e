"""Every completion that a run learned from: `rollouts/step-000040.parquet` in its folder, one row each.

    log = RolloutLog(run_dir, keep=1000, spell=tokenizer.spell)
    log.put(40, groups)                 # written by a thread; waits only if it is WAITING steps behind
    log.failure                         # the reason, once a step could not be written
    log.close()

    pandas.read_parquet("outputs/prod/rollouts/step-000040.parquet")

Each file is whole: it gets its name once it is written. Only the newest `keep` steps are kept, and of them
those that fit into MOST_BYTES. A run's folder that is moved is followed. For people completions.jsonl has a
few completions of each step.
"""

import errno
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from grpo_cli.engine.events import in_one_line
from grpo_cli.engine.run_dir.names import ROLLOUTS
from grpo_cli.files import is_named, name_of, written
from grpo_cli.types import Rollout, RolloutGroup

NAME = re.compile(r"step-(\d{6,})\.parquet")
WAITING = 4  # steps
MOST_BYTES = 1_000_000_000  # of all files of a run, apart from the newest one

Pieces = dict[int, str]  # the text of each token id that was sampled so far


class RolloutLog:
    """The files of a run, written in the order of its steps."""

    def __init__(self, folder: Path, keep: int, spell: Callable[[list[int]], str]) -> None:
        """`folder`: the run's, which exists. `keep`: number of steps. `spell`: the text of token ids."""
        self._keep, self._spell = keep, spell
        self._place = Place(folder)
        self._pieces: Pieces = {}
        self._queue: queue.Queue[tuple[int, Sequence[RolloutGroup]] | None] = queue.Queue(WAITING)
        self.failure = ""
        self._thread = threading.Thread(target=self._work, name="grpo-rollouts", daemon=True)
        self._thread.start()

    def put(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Write a step's completions, soon.

        New tokens are spelled here, since a tokenizer must not be used by two threads at once.
        """
        seen = {token for group in groups for rollout in group.rollouts for token in rollout.token_ids}
        self._pieces |= {token: self._spell([token]) for token in seen - self._pieces.keys()}
        self._queue.put((step, groups))

    def write_to(self, folder: Path) -> None:
        """Write into another folder from now on: the run's was deleted, and this one took its place."""
        self._place.change(folder)

    def close(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()
        self._place.close()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except Exception as error:  # a full disk: the run goes on, and the next step may fit again
                self.failure = f"the completions of step {item[0]} are not kept: {in_one_line(error)}"

    def _write(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Write a step where the run's folder is now. Raises OSError, and pyarrow's errors."""
        for is_last in (False, True):
            folder = self._place.now()
            if folder is None:  # deleted: what the run keeps begins anew with its next checkpoint
                return
            try:
                write_step(made(folder / ROLLOUTS), step, groups, self._pieces)
                remove_old(folder / ROLLOUTS, self._keep)
                return
            except FileNotFoundError:  # moved in this moment
                if is_last:
                    raise


class Place:
    """A folder that is followed if it is moved. Used by two threads."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._open(folder)

    def _open(self, folder: Path) -> None:
        self._path = folder.absolute()
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def now(self) -> Path | None:
        """The folder's present path; None if it was deleted."""
        with self._lock:
            for path in (self._path, name_of(self._descriptor)):
                if path is not None and is_named(self._descriptor, path):
                    self._path = path
                    return path
        return None

    def change(self, folder: Path) -> None:
        """Follow another folder. Raises OSError if there is none."""
        with self._lock:
            os.close(self._descriptor)
            self._open(folder)

    def close(self) -> None:
        """Follow nothing any more."""
        os.close(self._descriptor)


def made(folder: Path) -> Path:
    """A folder, created if it is missing. Raises OSError for a link: it may lead out of a received run."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "It is a link, which is not followed", str(folder))
    folder.mkdir(exist_ok=True)
    return folder


def write_step(folder: Path, step: int, groups: Sequence[RolloutGroup], pieces: Pieces) -> None:
    """Write one file. Raises OSError, and pyarrow's errors for a text that is not Unicode."""
    import pyarrow.parquet as parquet

    with written(folder / f"step-{step:06}.parquet") as path:
        parquet.write_table(table_of(step, groups, pieces), path, compression="zstd")


def table_of(step: int, groups: Sequence[RolloutGroup], pieces: Pieces) -> Any:
    """A step's completions as a table of pyarrow: a row each, group by group."""
    import pyarrow as pa

    numbers, reals = pa.list_(pa.int32()), pa.list_(pa.float32())
    names = list(groups[0].rollouts[0].rewards)
    fields = {
        "step": pa.int32(),
        "group": pa.int32(),  # number of the prompt within the step
        "prompt": pa.string(),  # the messages as JSON
        "answer": pa.string(),
        "prompt_ids": numbers,
        "completion": pa.string(),
        "token_ids": numbers,  # (T,)
        "tokens": pa.list_(pa.string()),  # (T,) the text of each token alone
        "logprobs": reals,  # (T,) at the sampling temperature, over the whole vocabulary
        "loss_mask": pa.list_(pa.int8()),  # (T,) 1: trained on
        **({"rewards": pa.struct([(name, pa.float64()) for name in names])} if names else {}),
        "reward": pa.float64(),  # null: no reward applies
        "advantage": pa.float64(),
        "stop_reason": pa.string(),
        "turns": pa.int32(),
        "tool_calls": pa.int32(),
    }
    rows = chain.from_iterable(rows_of(step, number, group, pieces) for number, group in enumerate(groups))
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(fields.items())))


def rows_of(step: int, number: int, group: RolloutGroup, pieces: Pieces) -> list[dict[str, Any]]:
    """The rows of one group."""
    example = group.example
    shown = json.dumps(example.messages, ensure_ascii=False, default=str)
    same: dict[str, Any] = {"step": step, "group": number, "prompt": shown, "answer": example.answer}
    same["prompt_ids"] = group.prompt_ids
    return [{**same, **row_of(rollout, pieces)} for rollout in group.rollouts]


def row_of(rollout: Rollout, pieces: Pieces) -> dict[str, Any]:
    """The part of a row that belongs to one completion."""
    use = rollout.use
    return {
        "completion": rollout.text,
        "token_ids": rollout.token_ids,
        "tokens": [pieces[token] for token in rollout.token_ids],
        "logprobs": rollout.logprobs,
        "loss_mask": rollout.loss_mask,
        "rewards": rollout.rewards,
        "reward": rollout.score,
        "advantage": rollout.advantage,
        "stop_reason": str(rollout.stop_reason),
        "turns": use.turns if use else 1,
        "tool_calls": use.calls if use else 0,
    }


def step_files(folder: Path) -> dict[int, Path]:
    """The files of a `rollouts` folder by their step."""
    found = ((NAME.fullmatch(path.name), path) for path in folder.glob("step-*.parquet"))
    return {int(name[1]): path for name, path in found if name}


def remove_old(folder: Path, keep: int, most: int = MOST_BYTES) -> None:
    """Remove the files of all but the newest `keep` steps that fit into `most` bytes. Raises OSError."""
    files, used = step_files(folder), 0
    for place, step in enumerate(sorted(files, reverse=True)):
        used += files[step].lstat().st_size
        if place >= keep or (place and used > most):
            files[step].unlink(missing_ok=True)


def set_aside(run_dir: Path, step: int, other: Path) -> None:
    """Move the files of steps after `step` to the folder `other`, before they are made anew."""
    later = [path for number, path in step_files(run_dir / ROLLOUTS).items() if number > step]
    if later:
        other.mkdir()
    for path in later:
        path.rename(other / path.name)
