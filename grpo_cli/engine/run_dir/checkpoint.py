"""Write a checkpoint atomically: a temporary folder, the manifest last, then a rename.

    checkpoint-100/  model.safetensors (or adapters.safetensors)  config.json  tokenizer files
                     start_adapters.safetensors (if the run continues adapters)
                     optimizer.safetensors  trainer_state.json  config.toml  manifest.json
                     with sync_ref_model: reference.safetensors

The folder is a model that plain mlx-lm loads (with LoRA: adapters for `--adapter-path`). It also contains
everything needed to resume the run, wherever it is copied. A folder with this name is always complete.
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
from grpo_cli.engine.failures import failure_of
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

REFERENCE = "reference.safetensors"  # weights of a reference that moves; names begin with `reference.`
START_ADAPTERS = "start_adapters.safetensors"  # those that the run continues: the reference of its KL term
SMALL_FILES = 16 << 20  # bytes allowed for tokenizer, state and configuration


@dataclass(kw_only=True)
class Snapshot:
    """The contents of a checkpoint. `groups`: rollouts that later updates still train on. `reference`: only
    one that moves (sync_ref_model); else it is loaded again.

    Weights and optimizer are not copies, so a snapshot is valid until the next update begins.
    """

    policy: Policy
    optimizer: Optimizer
    config: Config
    state: RunState
    groups: list[RolloutGroup]
    reference: Policy | None = None

    def __post_init__(self) -> None:
        self._updates = self.optimizer.begun

    @property
    def is_current(self) -> bool:
        """True if weights and optimizer still belong to its state."""
        return self.optimizer.begun == self._updates

    @property
    def reference_arrays(self) -> dict[str, mx.array]:
        """The weights of the reference by name; empty if it does not move."""
        return flat({"reference": self.reference.model.parameters()}) if self.reference else {}

    @property
    def size(self) -> int:
        """Approximate size on the disk in bytes."""
        model = self.policy.model
        arrays = flat(model.trainable_parameters() if self.policy.lora else model.parameters())
        every = (arrays, self.optimizer.arrays(), self.reference_arrays, self.policy.start)
        return sum(array.nbytes for part in every for array in part.values()) + SMALL_FILES


def save_checkpoint(folder: Path, snapshot: Snapshot) -> None:
    """Write a complete checkpoint to `folder`, or nothing. An existing one is replaced at the end.

    Raises CheckpointError (`Failed to save checkpoint: …`) if the disk refuses it or is full; the partial
    files are then removed. A failure of the device is raised as MLX's RuntimeError.
    """
    try:
        check_space(folder.parent, snapshot.size)
        with new_in_place_of(folder) as new:
            _write_files(new, snapshot)
            write_manifest(new, snapshot.state.step)
    except (OSError, RuntimeError) as error:  # mlx reports a failed write as a RuntimeError
        if failure_of(error) is not None:
            raise
        raise CheckpointError(
            f"Failed to save checkpoint: {error}", cure(folder.parent, snapshot.size), trouble="cannot-save"
        ) from error


def cure(parent: Path, size: int) -> str:
    """The hint for a disk that refused a checkpoint of `size` bytes."""
    longest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if resource.RLIM_INFINITY != longest < size:
        return f"this shell limits files to {longest / 1e6:.1f} MB (`ulimit -f`): open one without that limit"
    try:
        free = f" ({free_space(parent) / 1e9:.1f} GB free)"
    except OSError:  # a disk that says nothing must not hide what it refused
        free = ""
    return f"check the permissions of {parent} and its disk{free}"


def free_space(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet. Raises OSError."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_space(parent: Path, needed: int) -> None:
    """Raise CheckpointError if a folder's disk has less than `needed` bytes free."""
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
        if policy.start:
            mx.save_safetensors(str(folder / START_ADAPTERS), policy.start)
    else:
        save_model(folder, policy.model)
        save_code(policy.config, folder)
    save_config(dict(policy.config), folder / "config.json")
    if policy.generation_config is not None:
        (folder / "generation_config.json").write_bytes(policy.generation_config)
    policy.tokenizer.save(folder)
    mx.save_safetensors(str(folder / "optimizer.safetensors"), snapshot.optimizer.arrays())
    if snapshot.reference:
        mx.save_safetensors(str(folder / REFERENCE), snapshot.reference_arrays)
    write_state(folder, snapshot.state, snapshot.groups)
    (folder / "config.toml").write_text(dump_config(snapshot.config), encoding="utf-8")


def write_manifest(folder: Path, step: int) -> None:
    """Flush every file to the disk, then write manifest.json with the size and sha256 of each."""
    files = {}
    for path in sorted(child for child in folder.rglob("*") if child.is_file()):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifest = {"version": MANIFEST_VERSION, "step": step, "files": files}
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(path)
    sync(folder)
