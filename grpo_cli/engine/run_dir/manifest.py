"""The checkpoints of a run, and the verification of their files by manifest.json.

    newest_intact(Path("outputs/run"), on_damage=print)     # outputs/run/checkpoint-40

manifest.json lists every other file of the folder with its size and sha256, and is written last. A folder
whose manifest is missing or does not match is not a valid checkpoint.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from grpo_cli.errors import CheckpointError
from grpo_cli.files import open_regular
from grpo_cli.folders import children
from grpo_cli.foreign_text import quoted
from grpo_cli.untrusted_json import DamagedFile, Schema, read_as, shown

MANIFEST = "manifest.json"
MANIFEST_VERSION = 2  # 1 had no evaluations and no log positions
FINAL = "final"
PREFIX = "checkpoint-"
LONGEST_STEP = 18  # digits


class ManifestEntry(Schema):
    """Size and checksum of a file in the manifest."""

    size: Annotated[int, Field(ge=0, lt=1 << 62)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Schema):
    """manifest.json, of any version."""

    version: int
    step: Annotated[int, Field(ge=0, lt=1 << 62)]
    files: dict[str, ManifestEntry]


def step_of(folder: Path) -> int | None:
    """The step in the name of a checkpoint folder; None for `final` and for other folders."""
    number = folder.name.removeprefix(PREFIX)
    is_number = number.isascii() and number.isdecimal() and len(number) <= LONGEST_STEP
    return int(number) if folder.name.startswith(PREFIX) and is_number else None


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoint folders by step, `final` last; intact or not."""
    numbered = [(step, path) for path in children(run_dir) if (step := step_of(path)) is not None]
    final = run_dir / FINAL
    return [path for _, path in sorted(numbered) if path.is_dir()] + ([final] if final.is_dir() else [])


def newest_intact(
    run_dir: Path, on_damage: Callable[[Path, str], None], limit: int | None = None
) -> Path | None:
    """The intact checkpoint of the highest step, below `limit` if given; None if there is none.

    `on_damage` is called with each newer checkpoint that is damaged. Raises CheckpointError for a checkpoint
    of another version of this program.
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
    """The first problem with a checkpoint's files; None if all are as they were written.

    Raises CheckpointError for a manifest of another version.
    """
    manifest = _read_manifest(folder)
    if isinstance(manifest, str):
        return manifest
    if manifest.version != MANIFEST_VERSION:
        raise CheckpointError(
            f"{folder} was written by another version of grpo: its manifest has version "
            f"{manifest.version}, but this one reads {MANIFEST_VERSION}",
            "resume with the version that wrote it, or train from its weights: "
            f"`--set {quoted(f'model_name={folder}')}` in a new run",
            trouble="resumable",
        )
    return next(_faults(folder, manifest.files), None)


def _faults(folder: Path, files: dict[str, ManifestEntry]) -> Iterator[str]:
    """All differences between the files and the manifest, the cheap comparisons first."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != entry.size:
            yield f"{name} has {path.stat().st_size} of {entry.size} bytes"
    for name, entry in files.items():
        try:
            matches = sha256(folder / name) == entry.sha256
        except OSError as error:  # a bad block, or no permission
            yield f"{name} cannot be read: {error.strerror}"
            continue
        if not matches:
            yield f"{name} does not match its checksum"


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> Manifest | str:
    """The manifest, or a text that says what is wrong with it."""
    try:
        manifest = read_as(Manifest, folder / MANIFEST)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    except DamagedFile as error:
        return f"{MANIFEST} is damaged: it {error}"
    if outside := next((name for name in manifest.files if not _is_within(name)), None):
        return f"{MANIFEST} names a file outside the folder: {shown(outside)}"
    return manifest


def _is_within(name: str) -> bool:
    """True if the name is that of a file within the folder, without `..` or an absolute path."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name.isprintable()


def step_in_manifest(folder: Path) -> tuple[int, bool]:
    """Sort key (step, is `final`) of a checkpoint; `final` follows a numbered one of the same step.

    Without a readable manifest the step is taken from the name: the largest for `final`, -1 for other names.
    """
    manifest = _read_manifest(folder)
    is_final = folder.name == FINAL
    if isinstance(manifest, Manifest):
        return manifest.step, is_final
    named = step_of(folder)
    return sys.maxsize if is_final else -1 if named is None else named, is_final
