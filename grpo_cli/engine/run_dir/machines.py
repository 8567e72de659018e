"""The machines that a run worked on, and the versions there: machines.jsonl in its folder, a line each start.

    record_machine(folder, this_machine(step=0, device="Apple M3 Max", …))
    read_machines(folder)[-1].versions["mlx"]       # "0.32.4"

For the page of the run, and for whoever repeats it. It names no host, no user and no path. Imports no mlx.
"""

import contextlib
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from grpo_cli.engine.run_dir.incidents import now
from grpo_cli.files import open_log
from grpo_cli.foreign_text import safe_json
from grpo_cli.untrusted_json import DamagedFile, Schema, read_bytes

MACHINES = "machines.jsonl"
LARGEST = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a run: where and with what."""

    time: str
    step: int  # the last finished one
    device: str
    memory_gb: float = 0.0  # 10⁹ bytes; 0: unknown
    ranks: int = 1
    system: str = ""
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)  # of packages


class _Line(Schema):
    """The fields of a line, checked."""

    time: str
    step: int
    device: str
    memory_gb: float = 0.0
    ranks: int = 1
    system: str = ""
    python: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


def this_machine(
    *, step: int, device: str, memory_bytes: int | None, ranks: int, versions: dict[str, str]
) -> Start:
    """A start on this machine, now."""
    return Start(
        time=now(),
        step=step,
        device=device,
        memory_gb=round((memory_bytes or 0) / 1e9, 1),
        ranks=ranks,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions,
    )


def record_machine(folder: Path, start: Start) -> None:
    """Append a line. A failure to write must not end a run."""
    with contextlib.suppress(OSError), open_log(folder / MACHINES) as file:
        file.write(f"{safe_json(asdict(start))}\n".encode())


def read_machines(folder: Path) -> list[Start]:
    """The starts of a run, the oldest first. Damaged lines are skipped."""
    try:
        lines = read_bytes(folder / MACHINES, LARGEST).decode("utf-8", "replace").splitlines()
    except (OSError, DamagedFile):
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, ValidationError, RecursionError):
            found.append(Start(**_Line.model_validate(json.loads(line)).model_dump()))
    return found
