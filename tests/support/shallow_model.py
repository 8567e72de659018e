"""The embedded model's first layer as a model of its own: whole runs of it take half the time.

It still ends its completions, at unlike lengths, but its sums are wrong: for tests without right answers.
"""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.models.find import TINY

LAYERS = 1


def write_shallow(folder: Path, layers: int = LAYERS) -> str:
    """Write the first layers, with the embedded model's tokenizer, and return the folder's name."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "__pycache__"))
    weights: dict[str, mx.array] = mx.load(str(TINY / "model.safetensors"))  # type: ignore[assignment]
    kept = {name: array for name, array in weights.items() if layer_of(name) < layers}
    mx.save_safetensors(str(folder / "model.safetensors"), kept, metadata={"format": "mlx"})
    config: dict[str, Any] = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}), encoding="utf-8")
    return str(folder)


def layer_of(name: str) -> int:
    """The layer of a weight; 0 for those outside of layers."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return numbers[0] if numbers else 0


@functools.cache
def shallow_model() -> str:
    """The folder that all tests of this process share."""
    place = Path(tempfile.mkdtemp(prefix="grpo-shallow-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return write_shallow(place / "shallow")
