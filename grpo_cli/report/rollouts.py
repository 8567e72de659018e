"""The rollouts of a run for its page: whole groups of steps at equal distances, with their tokens.

    lines = rollout_lines(Path("outputs/prod"))
    lines[0]["completion"], lines[0]["group"], lines[0]["tokens"][:2], lines[0]["logprobs"][:2]

Lines have the fields of completions.jsonl, and more. Files that are damaged or too large are left out: a
received run's folder may hold anything.
"""

import json
from pathlib import Path
from typing import Any

from grpo_cli.engine.run_dir.names import ROLLOUTS
from grpo_cli.engine.run_dir.rollout_log import step_files

MOST_STEPS = 60  # whose files are read
MOST_READ = 8 << 20  # bytes of all those files
LARGEST = 32 << 20  # bytes of a file, which may hold much more once it is unpacked
LARGEST_UNPACKED = 512 << 20  # bytes, as its head says
MOST_ROWS = 64  # of a step
COLUMNS = (
    "step", "group", "prompt", "answer", "completion", "tokens", "logprobs", "loss_mask", "rewards", "reward",
    "advantage", "stop_reason", "turns", "tool_calls",
)  # fmt: skip

Line = dict[str, Any]


def rollout_lines(folder: Path) -> list[Line]:
    """The rows of the chosen steps, in the order of the steps."""
    if (folder / ROLLOUTS).is_symlink() or not (folder / ROLLOUTS).is_dir():
        return []
    files = {step: path for step, path in step_files(folder / ROLLOUTS).items() if is_readable(path)}
    return [line for step in chosen(files) for line in rows_of(files[step])]


def is_readable(path: Path) -> bool:
    """True for a regular file that is not too large."""
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= LARGEST


def chosen(files: dict[int, Path]) -> list[int]:
    """At most MOST_STEPS steps at equal distances, the last one among them, of at most MOST_READ bytes."""
    steps = sorted(files)
    stride = max(1, -(-len(steps) // MOST_STEPS))
    picked = steps[::-1][::stride]
    while len(picked) > 1 and sum(files[step].stat().st_size for step in picked) > MOST_READ:
        picked = picked[::2]
    return picked[::-1]


def rows_of(path: Path) -> list[Line]:
    """The first whole groups of a file; none if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            if unpacked(file.metadata) > LARGEST_UNPACKED:
                return []
            present = [name for name in COLUMNS if name in file.schema_arrow.names]
            table = file.read(columns=present)
        rows: list[Line] = table.slice(0, MOST_ROWS + 1).to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return []
    if len(rows) > MOST_ROWS:
        cut = rows[-1].get("group")  # it may be whole, or not
        rows = [row for row in rows if row.get("group") != cut] or rows[:MOST_ROWS]
    return [as_line(row) for row in rows]


def unpacked(metadata: Any) -> int:
    """Bytes of a file's columns without compression."""
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))


def as_line(row: Line) -> Line:
    """A row with its prompt as messages, and the number of its tokens."""
    tokens = row.get("tokens")
    row["tokens_list"] = tokens if isinstance(tokens, list) else []
    mask: Any = row.get("loss_mask")
    row["tokens"] = sum(mask) if is_numbers(mask) else len(row["tokens_list"])
    try:
        row["prompt"] = json.loads(row["prompt"])
    except (KeyError, TypeError, ValueError, RecursionError):
        row["prompt"] = str(row.get("prompt") or "")
    return row


def is_numbers(values: Any) -> bool:
    """True for a list of numbers."""
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)
