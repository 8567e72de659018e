"""Save a checkpoint in one commit: a temporary folder, the manifest last, then a rename.

    checkpoint-100/  model.safetensors (or adapters.safetensors)  config.json  tokenizer files
                     optimizer.safetensors  trainer_state.json  manifest.json

The folder is a model that plain mlx-lm loads (with LoRA: adapters for `--adapter-path`). A folder
without an intact manifest is not a checkpoint; a name without `.tmp` is complete.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import save_config, save_model

from grpo_cli.engine.optimizer import Optimizer
from grpo_cli.errors import CheckpointError
from grpo_cli.models.classes import save_code
from grpo_cli.models.load import Policy
from grpo_cli.models.lora import save_adapters

MANIFEST_VERSION = 1


def save_checkpoint(folder: Path, policy: Policy, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Write a complete checkpoint to `folder`, or nothing.

    Raises CheckpointError (`Failed to save checkpoint: …`) where the disk refuses it; what was
    written by then is removed.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_files(temporary, policy, optimizer, state)
        _write_manifest(temporary, state)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    except (OSError, RuntimeError) as error:  # mlx reports a failed write as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free / 1e9 if folder.parent.exists() else 0.0
        raise CheckpointError(
            f"Failed to save checkpoint: {error}",
            f"check the permissions of {folder.parent} and its disk ({free:.1f} GB free)",
        ) from error


def _write_files(folder: Path, policy: Policy, optimizer: Optimizer, state: dict[str, Any]) -> None:
    if policy.lora:
        save_adapters(policy.model, policy.lora, policy.portable_source, folder)
    else:
        save_model(folder, policy.model)
        save_code(policy.config, folder)
    save_config(dict(policy.config), folder / "config.json")
    generation = policy.path / "generation_config.json"
    if generation.exists():
        shutil.copyfile(generation, folder / generation.name)
    policy.tokenizer.save(folder)
    mx.save_safetensors(str(folder / "optimizer.safetensors"), optimizer.arrays())
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def _write_manifest(folder: Path, state: dict[str, Any]) -> None:
    """Name, size and sha256 of every file, after all of them are on the disk."""
    files = {}
    for path in sorted(child for child in folder.rglob("*") if child.is_file()):
        _sync(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
    manifest = {"version": MANIFEST_VERSION, "step": state["step"], "files": files}
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    _sync(path)
    _sync(folder)


def remove_old_checkpoints(run_dir: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints; `final` always stays."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    found.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")))
    for path in found[:-keep]:
        shutil.rmtree(path)


def _sync(path: Path) -> None:
    """Have the disk hold what was written, so that a rename never outlives its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
