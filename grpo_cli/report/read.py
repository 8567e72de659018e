"""The files of a run as a page needs them. A received run's folder may hold anything: see untrusted_json.py.

    run = read_run(Path("outputs/prod"))
    run.steps[-1]["reward_mean"], run.evaluations[0]["eval_accuracy"], run.settings["seed"]

Lines of the log that are damaged are left out, as everywhere. Values are checked where they are used.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_cli.doctor.read.json_lines import read_lines
from grpo_cli.doctor.read.run_log import number
from grpo_cli.engine.run_dir.incidents import Incident, read_incidents
from grpo_cli.engine.run_dir.machines import Start, read_machines
from grpo_cli.engine.run_dir.manifest import FINAL, MANIFEST, step_of
from grpo_cli.errors import CheckpointError
from grpo_cli.report.rollouts import rollout_lines
from grpo_cli.untrusted_json import DamagedFile, read_bytes

# Named here, since the modules that write them load MLX.
CONFIG_FILE, METRICS, COMPLETIONS = "config.toml", "training_log.jsonl", "completions.jsonl"
LARGEST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of a run's folder: steps and evaluations by step, completions, settings, incidents."""

    folder: Path
    name: str
    log: list[dict[str, Any]]  # all lines, in the file's order
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    completions: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)  # keys of config.toml
    is_finished: bool = False
    rollouts: list[dict[str, Any]] = field(default_factory=list)  # whole groups, with their tokens
    incidents: list[Incident] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)  # the machine and the versions each time


def read_run(folder: Path) -> RunRecord:
    """Read a run. Raises CheckpointError for a folder without a log and without a configuration."""
    if not any((folder / name).is_file() for name in (METRICS, CONFIG_FILE)):
        raise CheckpointError(
            f"Run not found: {folder}",
            "give the folder of a run, `<output_dir>/<run_name>`, which holds training_log.jsonl",
            trouble="checkpoint-not-found",
        )
    log = lines_of(folder / METRICS)
    numbered = [line for line in log if is_step(line.get("step"))]
    return RunRecord(
        folder=folder,
        name=folder.absolute().name,
        log=log,
        steps=by_step(line for line in numbered if "loss" in line),
        evaluations=by_step(line for line in numbered if share(line, "eval_accuracy") is not None),
        completions=lines_of(folder / COMPLETIONS),
        settings=settings_of(folder / CONFIG_FILE),
        is_finished=(folder / FINAL / MANIFEST).is_file(),
        rollouts=rollout_lines(folder),
        incidents=read_incidents(folder),
        starts=read_machines(folder),
    )


def run_folder(path: Path) -> Path:
    """The run's folder that a path names: itself, or the run of a checkpoint."""
    is_checkpoint = step_of(path) is not None or path.name == FINAL
    return path.absolute().parent if is_checkpoint and path.is_dir() else path


def is_step(value: Any) -> bool:
    """True for a number of a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def share(line: dict[str, Any], key: str) -> float | None:
    """A share of a line, within 0 and 1; None for anything else."""
    value = number(line, key)
    return value if value is not None and 0.0 <= value <= 1.0 else None


def by_step(lines: Any) -> list[dict[str, Any]]:
    """One line a step, in order; of several the last, which a resumed run wrote."""
    last = {line["step"]: line for line in lines}
    return [last[step] for step in sorted(last)]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none if it is not a regular file."""
    return read_lines(path) if path.is_file() else []


def settings_of(path: Path) -> dict[str, Any]:
    """The keys of a TOML file, also of its [mlx_grpo] table; none if it cannot be read."""
    try:
        table = tomllib.loads(read_bytes(path, LARGEST_CONFIG).decode("utf-8-sig"))
    except (OSError, DamagedFile, ValueError, RecursionError):
        return {}
    inner = table.pop("mlx_grpo", {})
    return {**table, **(inner if isinstance(inner, dict) else {})}
