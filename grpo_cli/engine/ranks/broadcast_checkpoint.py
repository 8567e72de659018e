"""Broadcast rank 0's checkpoint to ranks that lack it, since machines rarely share a disk.

    folder = broadcast_checkpoint(Path("outputs/prod/checkpoint-200"), world)      # the same path everywhere

It is written like a saved checkpoint: under a temporary name, compared with its manifest, and then renamed.
"""

from pathlib import Path
from typing import IO

from grpo_cli.distributed.phase import Phase
from grpo_cli.distributed.world import World
from grpo_cli.engine.run_dir.folder import words_for_the_disk
from grpo_cli.engine.run_dir.manifest import MANIFEST, Manifest, damage
from grpo_cli.errors import CheckpointError
from grpo_cli.files import sync
from grpo_cli.folders import new_in_place_of
from grpo_cli.untrusted_json import parse_as

PIECE = 1 << 24  # bytes per broadcast


def broadcast_checkpoint(checkpoint: Path, world: World) -> Path:
    """Copy rank 0's intact checkpoint to all ranks that lack it; returns its path.

    Raises CheckpointError if a rank cannot write it, or if the bytes received do not match the manifest.
    """
    if world.size == 1:
        return checkpoint
    world.set_phase(Phase.COPYING)
    manifest = world.first((checkpoint / MANIFEST).read_text("utf-8") if world.is_first else "")
    has_it = world.is_first or holds(checkpoint, manifest)
    if not world.any(not has_it):
        return checkpoint
    with words_for_the_disk(checkpoint.parent):
        if has_it:
            receive(checkpoint, None, manifest, world)
        else:
            with new_in_place_of(checkpoint) as new:
                receive(checkpoint, new, manifest, world)
    return checkpoint


def receive(checkpoint: Path, new: Path | None, manifest: str, world: World) -> None:
    """Send rank 0's files; ranks that lack them write them to `new`."""
    if new:
        prepare_folder(new, manifest)
    for name, entry in parse_as(Manifest, manifest).files.items():
        send(
            checkpoint / name if world.is_first else None,
            new / name if new else None,
            entry.size,
            world,
        )
    if new:
        check_arrived(new, checkpoint)


def holds(folder: Path, manifest: str) -> bool:
    """True if this machine already has the same checkpoint, intact."""
    path = folder / MANIFEST
    return path.is_file() and path.read_text("utf-8") == manifest and damage(folder) is None


def prepare_folder(folder: Path, manifest: str) -> None:
    """Write the manifest and make subfolders. Raises CheckpointError for file names outside the folder."""
    for name in parse_as(Manifest, manifest).files:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise CheckpointError(
                f"The checkpoint's manifest names a file outside its folder: {name}",
                "rank 0's checkpoint was not written by this program",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(manifest, "utf-8")


def send(source: Path | None, target: Path | None, size: int, world: World) -> None:
    """Send a file of `size` bytes from rank 0's `source` to the `target` of each rank that lacks it."""
    reading: IO[bytes] | None = source.open("rb") if source else None
    writing: IO[bytes] | None = target.open("wb") if target else None
    try:
        for start in range(0, size, PIECE):
            count = min(PIECE, size - start)
            piece = world.broadcast_bytes(reading.read(count) if reading else b"", count)
            if writing:
                writing.write(piece)
    finally:
        for file in (reading, writing):
            if file:
                file.close()
    if target:
        sync(target)


def check_arrived(new: Path, folder: Path) -> None:
    """Raise CheckpointError if the received files do not match the manifest."""
    problem = damage(new)
    if problem is not None:
        raise CheckpointError(
            f"The checkpoint arrived incomplete: {problem}",
            f"try again, or copy {folder.name} to this machine yourself",
        )
