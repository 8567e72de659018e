"""Write safetensors files one tensor at a time, so that memory holds one tensor and not the model.

    write_shards(folder, [OutgoingTensor("w", DTYPES["float32"], (2, 3), read=lambda: array)])

A file is eight bytes with the length of the header, the header (JSON: format, shape and offsets of each
tensor), and the numbers. All offsets follow from the shapes, so the header can go first. Names of the files
and of the index are those of transformers and mlx-lm.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.outgoing import OutgoingTensor, check_distinct
from grpo_cli.files import sync, write_file

MAX_SHARD_BYTES = 5_000_000_000
ALIGNMENT = 8  # of the first number, as the format requires
RESERVED = ("__metadata__",)  # not allowed as a tensor's name


def write_shards(
    folder: Path,
    tensors: Iterable[OutgoingTensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    made_for: str = "mlx",
) -> list[Path]:
    """Write `model.safetensors`, or several shards with their index, into an existing folder; fsynced.

    `made_for`: the format's name for the library that reads them (`mlx`, `pt`). A tensor larger than
    `max_shard_bytes` gets its own shard. Returns the files in order. Raises ConversionError if the folder
    cannot be written (a full disk), ValueError for duplicate names and for numbers that do not match their
    OutgoingTensor.
    """
    shards = list(_shards(tensors, max_shard_bytes))
    check_distinct((tensor for shard in shards for tensor in shard), RESERVED)
    count = len(shards)
    names = (
        ["model.safetensors"]
        if count == 1
        else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    )
    try:
        for name, shard in zip(names, shards, strict=True):
            _write_shard(folder / name, shard, made_for)
        if count > 1:
            _write_index(folder / "model.safetensors.index.json", names, shards)
        sync(folder)
    except OSError as error:
        raise ConversionError(
            f"cannot write {folder}: {error.strerror}", "choose another folder with `--output`"
        ) from error
    return [folder / name for name in names]


def _shards(tensors: Iterable[OutgoingTensor], most: int) -> Iterator[list[OutgoingTensor]]:
    """Tensors in order, split before one that no longer fits; one empty shard if there are none."""
    shard: list[OutgoingTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.size > most:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.size
    yield shard


def _write_shard(path: Path, tensors: Sequence[OutgoingTensor], made_for: str) -> None:
    with path.open("wb") as file:
        file.write(_header(tensors, made_for))
        for tensor in tensors:
            tensor.write(file)
    sync(path)


def _header(tensors: Sequence[OutgoingTensor], made_for: str) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": made_for}}
    at = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.written.safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.size],
        }
        at += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_index(path: Path, names: Sequence[str], shards: Sequence[Sequence[OutgoingTensor]]) -> None:
    tensors = [tensor for shard in shards for tensor in shard]
    index = {
        "metadata": {
            "total_size": sum(tensor.size for tensor in tensors),
            "total_parameters": sum(tensor.count for tensor in tensors),
        },
        "weight_map": {
            tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        },
    }
    write_file(path, json.dumps(index, indent=2) + "\n")
