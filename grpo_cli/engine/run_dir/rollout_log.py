"""Every completion that a run learned from: `rollouts/step-000040.parquet` in its folder, one row each.

    log = RolloutLog(lambda: run_dir, keep=100)
    log.put(40, groups)                 # written by a thread; waits only if it is WAITING steps behind
    log.failure                         # the reason, once a step could not be written
    log.close()

    pandas.read_parquet("outputs/prod/rollouts/step-000040.parquet")

Each file is whole: it gets its name once it is written. Only the newest `keep` steps are kept. For people
completions.jsonl has a few completions of each step.
"""

import json
import queue
import re
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from grpo_cli.engine.events import in_one_line
from grpo_cli.files import written
from grpo_cli.types import Rollout, RolloutGroup

ROLLOUTS = "rollouts"
NAME = re.compile(r"step-(\d{6,})\.parquet")
WAITING = 4  # steps


class RolloutLog:
    """The files of a run, written in the order of its steps."""

    def __init__(self, folder: Callable[[], Path], keep: int) -> None:
        """`folder`: the run's, which may be moved. `keep`: number of steps."""
        self._folder, self._keep = folder, keep
        self._queue: queue.Queue[tuple[int, Sequence[RolloutGroup]] | None] = queue.Queue(WAITING)
        self.failure = ""
        self._thread = threading.Thread(target=self._work, name="grpo-rollouts", daemon=True)
        self._thread.start()

    def put(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Write a step's completions, soon."""
        self._queue.put((step, groups))

    def close(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                folder = self._folder() / ROLLOUTS
                folder.mkdir(exist_ok=True)
                write_step(folder, *item)
                remove_old(folder, self._keep)
            except Exception as error:  # a full disk: the run goes on, and the next step may fit again
                self.failure = f"the completions of step {item[0]} are not kept: {in_one_line(error)}"


def write_step(folder: Path, step: int, groups: Sequence[RolloutGroup]) -> None:
    """Write one file. Raises OSError, and pyarrow's errors for a text that is not Unicode."""
    import pyarrow.parquet as parquet

    with written(folder / f"step-{step:06}.parquet") as path:
        parquet.write_table(table_of(step, groups), path, compression="zstd")


def table_of(step: int, groups: Sequence[RolloutGroup]) -> Any:
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
        "logprobs": reals,  # (T,) at the sampling temperature, over the whole vocabulary
        "loss_mask": pa.list_(pa.int8()),  # (T,) 1: trained on
        **({"rewards": pa.struct([(name, pa.float64()) for name in names])} if names else {}),
        "reward": pa.float64(),  # null: no reward applies
        "advantage": pa.float64(),
        "stop_reason": pa.string(),
        "turns": pa.int32(),
        "tool_calls": pa.int32(),
    }
    rows = chain.from_iterable(rows_of(step, number, group) for number, group in enumerate(groups))
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(fields.items())))


def rows_of(step: int, number: int, group: RolloutGroup) -> list[dict[str, Any]]:
    """The rows of one group."""
    example = group.example
    shown = json.dumps(example.messages, ensure_ascii=False, default=str)
    same = {"step": step, "group": number, "prompt": shown, "answer": example.answer}
    return [{**same, "prompt_ids": group.prompt_ids, **row_of(rollout)} for rollout in group.rollouts]


def row_of(rollout: Rollout) -> dict[str, Any]:
    """The part of a row that belongs to one completion."""
    use = rollout.use
    return {
        "completion": rollout.text,
        "token_ids": rollout.token_ids,
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


def remove_old(folder: Path, keep: int) -> None:
    """Remove the files of all but the newest `keep` steps. Raises OSError."""
    files = step_files(folder)
    for step in sorted(files)[:-keep]:
        files[step].unlink(missing_ok=True)


def set_aside(run_dir: Path, step: int, other: Path) -> None:
    """Move the files of steps after `step` to the folder `other`, before they are made anew."""
    later = [path for number, path in step_files(run_dir / ROLLOUTS).items() if number > step]
    if later:
        other.mkdir()
    for path in later:
        path.rename(other / path.name)
