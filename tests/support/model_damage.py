"""Ways to damage a model's folder."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(**changes: Any) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()


def rewritten(folder: Path, change: Any) -> Path:
    """The folder with its weights changed: `change(arrays)` edits the table."""
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    mx.eval(arrays)
    change(arrays)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
