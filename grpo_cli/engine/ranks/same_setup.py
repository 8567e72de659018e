"""Check that all ranks were started with the same versions, configuration, rewards, model and data.

    check_same_setup(world, settings(config))     # TrainingError: learning_rate: 1e-05 on rank 0 (mac1), …

Ranks that differ would train different models and still add up their gradients. Facts are therefore compared
by name before the first step, and files by their checksums.
"""

import functools
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from grpo_cli.config.fields import toml_value
from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import World
from grpo_cli.engine.run_dir.manifest import sha256
from grpo_cli.errors import TrainingError
from grpo_cli.rewards.spec import RewardSpec

PACKAGES = ("grpo-cli", "mlx", "mlx-lm", "tokenizers", "transformers")
OWN = {"output_dir", "run_name", "rank_timeout"}  # keys that only rank 0 uses
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.pkl", "*.model")
SHOWN = 5  # differences listed in the error

Facts = dict[str, str]


def settings(config: Config) -> Facts:
    """Facts known before loading: package versions, config keys, and checksums of reward files."""
    values = config.model_dump()
    return {
        **{f"version of {name}": version(name) for name in PACKAGES},
        **{name: toml_value(value) for name, value in values.items() if name not in OWN},
        **{f"reward file {path.name}": checksum(path) for path in reward_files(config)},
    }


def loaded(
    model: Path,
    checkpoint: Path | None,
    prompts: str,
    *,
    adapters: Path | None = None,
    judge: Path | None = None,
) -> Facts:
    """Facts known after loading: checksums of the files that were read and of the training prompts.

    `adapters`: the folder of those that training starts from.
    """
    facts = {"training prompts": prompts}
    folders = (("model", model), ("checkpoint", checkpoint), ("adapters", adapters), ("judge", judge))
    for kind, folder in folders:
        for path in sorted(
            {path for pattern in MODEL_FILES for path in folder.glob(pattern)} if folder else ()
        ):
            facts[f"{kind} file {path.name}"] = checksum(path)
    return facts


@functools.cache  # read from files, and asked for at every step
def version(package: str) -> str:
    """The installed version of a package, or `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source tree
        return "not installed"


def reward_files(config: Config) -> Iterator[Path]:
    """The files that rewards and tools are loaded from."""
    for name in config.code_entries:
        spec = RewardSpec.parse(name)
        if spec.is_file and spec.path.is_file():
            yield spec.path


def checksum(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's sha256, as text."""
    return f"sha256 {sha256(path)[:16]}"


def check_same_setup(world: World, facts: Facts) -> None:
    """Raise TrainingError if a rank's facts differ from those of rank 0, and list the differences."""
    if world.size == 1:
        return
    every = world.gather([platform.node(), facts])
    lines = [line for rank in range(1, world.size) for line in differences(rank, every)]
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise TrainingError(
            f"The ranks were started with different inputs: {'; '.join(lines[:SHOWN])}{more}",
            "give every machine the same files and versions, and start again; nothing was changed",
            trouble="several-machines",
        )


def differences(rank: int, every: list[Any]) -> list[str]:
    """The differences between a rank's facts and those of rank 0, one text per fact."""
    (first_host, first), (host, other) = every[0], every[rank]
    return [
        f"{name}: {first.get(name, 'none')} on rank 0 ({first_host}), "
        f"{other.get(name, 'none')} on rank {rank} ({host})"
        for name in [*first, *(name for name in other if name not in first)]
        if first.get(name) != other.get(name)
    ]
