"""Which checkpoints a run has, and whether each is what was written: by its manifest, byte for byte.

    newest_intact(Path("outputs/run"), on_damage=print)     # outputs/run/checkpoint-40

manifest.json names every other file of the folder with its size and sha256, and is written last. A folder
without a manifest that fits is not a checkpoint.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grpo_cli.errors import CheckpointError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 2  # 1 had neither evaluations nor the places in the logs
FINAL = "final"
PREFIX = "checkpoint-"


def step_of(folder: Path) -> int | None:
    """The step that a folder's name gives a checkpoint; None for `final` and for other folders."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if folder.name.startswith(PREFIX) and number.isdecimal() else None


def temporary(folder: Path) -> Path:
    """Where a checkpoint is written until it is complete: a name that nobody else uses."""
    return folder.with_name(f".{folder.name}.grpo-tmp")


def replaced(folder: Path) -> Path:
    """Where the checkpoint is that had the name before, until the new one has it."""
    return folder.with_name(f".{folder.name}.grpo-old")


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoint folders by step, `final` last; intact or not."""
    numbered = [(step, path) for path in run_dir.glob(f"{PREFIX}*") if (step := step_of(path)) is not None]
    final = run_dir / FINAL
    return [path for _, path in sorted(numbered) if path.is_dir()] + ([final] if final.is_dir() else [])


def newest_intact(
    run_dir: Path, on_damage: Callable[[Path, str], None], limit: int | None = None
) -> Path | None:
    """The intact checkpoint of the highest step below `limit`, or of all without one.

    `on_damage` is told of each newer one that is not intact. Raises CheckpointError for one that another
    version of this program wrote.
    """
    for folder in sorted(checkpoints(run_dir), key=step_in_manifest, reverse=True):
        if limit is not None and step_in_manifest(folder)[0] >= limit:
            continue
        problem = damage(folder)
        if problem is None:
            return folder
        on_damage(folder, problem)
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None if it is as it was written.

    Raises CheckpointError for a manifest of another version.
    """
    manifest = _read_manifest(folder)
    if isinstance(manifest, str):
        return manifest
    version = manifest.get("version")
    if version != MANIFEST_VERSION:
        raise CheckpointError(
            f"{folder} was written by another version of grpo: its manifest is of version {version}, "
            f"and this one reads {MANIFEST_VERSION}",
            "go on with the version that wrote it, or train from its weights: "
            f"`--set model_name={folder}` in a new run",
            trouble="resumable",
        )
    return next(_faults(folder, manifest["files"]), None)


def _faults(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    """Every file that differs from the manifest, the cheap comparisons first."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != entry["size"]:
            yield f"{name} has {path.stat().st_size} of {entry['size']} bytes"
    for name, entry in files.items():
        try:
            matches = sha256(folder / name) == entry["sha256"]
        except OSError as error:  # a bad block, or no permission
            yield f"{name} cannot be read: {error.strerror}"
            continue
        if not matches:
            yield f"{name} does not match its checksum"


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any] | str:
    """The manifest, or what is wrong with it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = [(str(name), int(e["size"]), str(e["sha256"])) for name, e in manifest["files"].items()]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name, _, _ in entries):
        return f"{MANIFEST} names files outside the folder"
    return dict(manifest)


def step_in_manifest(folder: Path) -> tuple[int, bool]:
    """The step that a checkpoint is of, `final` after a numbered one of the same step.

    Without a readable manifest it is that of the name: `final` is the last, and another name -1.
    """
    manifest = _read_manifest(folder)
    step = manifest.get("step") if isinstance(manifest, dict) else None
    is_final = folder.name == FINAL
    if not isinstance(step, int):
        named = step_of(folder)
        step = sys.maxsize if is_final else -1 if named is None else named
    return step, is_final
