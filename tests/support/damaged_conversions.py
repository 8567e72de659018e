"""Converted models, and copies of them with something wrong: what a check must see."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.convert.options import CheckResult, Options
from grpo_cli.convert.run import convert
from tests.support.nanochat_checkpoints import write_checkpoint

Arrays = dict[str, mx.array]


def converted_model(folder: Path, version: str) -> Path:
    """A small checkpoint as a model's folder, which nothing has verified."""
    source = write_checkpoint(folder / f"{version}-source", version)
    return convert(str(source), Options(output=folder / version, verify=False)).output


def stored(model: Path) -> Arrays:
    """Every tensor of a model's folder, read."""
    found: Any = mx.load(str(model / "model.safetensors"))
    mx.eval(found)
    return found


def damaged(model: Path, folder: Path, change: Callable[[Arrays], object]) -> Path:
    """A copy of a model in `folder` whose tensors were changed in place."""
    shutil.copytree(model, folder)
    arrays = stored(model)
    change(arrays)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


def configure(model: Path, **fields: Any) -> None:
    """Change fields of a folder's config.json."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def right(seen: str) -> CheckResult:
    """A comparison of weights that passed."""
    return CheckResult("weights", True, seen)


def wrong(seen: str) -> CheckResult:
    """One that failed."""
    return CheckResult("weights", False, seen)
