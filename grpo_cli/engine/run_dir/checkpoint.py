"""Write a checkpoint in one commit: a temporary folder, the manifest last, then a rename.

    checkpoint-100/  model.safetensors (or adapters.safetensors)  config.json  tokenizer files
                     optimizer.safetensors  trainer_state.json  config.toml  manifest.json

The folder is a model that plain mlx-lm loads (with LoRA: adapters for `--adapter-path`), and all that a
run needs to go on, wherever it is copied. A folder of this name is complete.
"""

import json
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import save_config, save_model

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.engine.run_dir.manifest import MANIFEST, MANIFEST_VERSION, sha256
from grpo_cli.engine.run_dir.run_state import RunState, write_state
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.errors import CheckpointError
from grpo_cli.files import sync
from grpo_cli.folders import new_in_place_of
from grpo_cli.models.adapters import save_adapters
from grpo_cli.models.classes import save_code
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from grpo_cli.types import RolloutGroup

SMALL_FILES = 16 << 20  # bytes allowed for tokenizer, state and configuration


@dataclass(kw_only=True)
class Snapshot:
    """Everything that a checkpoint holds. `groups`: rollouts that later updates still need.

    Weights and optimizer are the run's own, not copies: it is current until the next update begins.
    """

    policy: Policy
    optimizer: Optimizer
    config: Config
    state: RunState
    groups: list[RolloutGroup]

    def __post_init__(self) -> None:
        self._updates = self.optimizer.begun

    @property
    def is_current(self) -> bool:
        """Whether weights and optimizer are still those of its state."""
        return self.optimizer.begun == self._updates

    @property
    def size(self) -> int:
        """About how many bytes it takes on the disk."""
        model = self.policy.model
        arrays = flat(model.trainable_parameters() if self.policy.lora else model.parameters())
        arrays = arrays | self.optimizer.arrays()
        return sum(array.nbytes for array in arrays.values()) + SMALL_FILES


def save_checkpoint(folder: Path, snapshot: Snapshot) -> None:
    """Write a complete checkpoint to `folder`, or nothing; one that is there stays until then.

    Raises CheckpointError (`Failed to save checkpoint: …`) where the disk refuses it or has no room; what
    was written by then is removed.
    """
    try:
        check_space(folder.parent, snapshot.size)
        with new_in_place_of(folder) as new:
            _write_files(new, snapshot)
            write_manifest(new, snapshot.state.step)
    except (OSError, RuntimeError) as error:  # mlx reports a failed write as a RuntimeError
        raise CheckpointError(
            f"Failed to save checkpoint: {error}", cure(folder.parent, snapshot.size), trouble="cannot-save"
        ) from error


def cure(parent: Path, size: int) -> str:
    """What to do about a disk that refused a checkpoint of so many bytes in a folder."""
    longest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if resource.RLIM_INFINITY != longest < size:
        return f"this shell allows files of {longest / 1e6:.1f} MB (`ulimit -f`): open one without that limit"
    return f"check the permissions of {parent} and its disk ({free_space(parent) / 1e9:.1f} GB free)"


def free_space(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not be there yet. Raises OSError."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_space(parent: Path, needed: int) -> None:
    """Raise CheckpointError where a folder's disk has no room for so many bytes."""
    free = free_space(parent)
    if free < needed:
        raise CheckpointError(
            f"Failed to save checkpoint: it needs {needed / 1e9:.2f} GB, "
            f"and {parent} has {free / 1e9:.2f} GB free",
            "free some space, or lower `keep_checkpoints`",
            trouble="cannot-save",
        )


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    policy = snapshot.policy
    if policy.lora:
        save_adapters(policy.model, policy.lora, policy.portable_source, folder)
    else:
        save_model(folder, policy.model)
        save_code(policy.config, folder)
    save_config(dict(policy.config), folder / "config.json")
    if policy.generation_config is not None:
        (folder / "generation_config.json").write_bytes(policy.generation_config)
    policy.tokenizer.save(folder)
    mx.save_safetensors(str(folder / "optimizer.safetensors"), snapshot.optimizer.arrays())
    write_state(folder, snapshot.state, snapshot.groups)
    (folder / "config.toml").write_text(dump_config(snapshot.config), encoding="utf-8")


def write_manifest(folder: Path, step: int) -> None:
    """Name, size and sha256 of every file, after all of them are on the disk."""
    files = {}
    for path in sorted(child for child in folder.rglob("*") if child.is_file()):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifest = {"version": MANIFEST_VERSION, "step": step, "files": files}
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(path)
    sync(folder)
