"""The point to resume a run from: its folder, checkpoint and configuration, the same on every rank.

    start = agreed(find_start(Path("outputs/prod"), ["max_steps=400"], listener, stack), world)

Instead of a damaged checkpoint an older one is used, and instead of a damaged configuration the checkpoint's.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_cli.config.fields import toml_value
from grpo_cli.config.load import load_config
from grpo_cli.config.overrides import read_overrides
from grpo_cli.config.paths import CODE_KEYS, from_folder
from grpo_cli.config.resumable import check_changes
from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import World
from grpo_cli.engine import events
from grpo_cli.engine.ranks.broadcast_checkpoint import broadcast_checkpoint
from grpo_cli.engine.run_dir.folder import existing, locate, tidy
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.run_dir.manifest import FINAL, damage, newest_intact, step_in_manifest
from grpo_cli.engine.run_dir.names import CONFIG_FILE
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError, ConfigError
from grpo_cli.files import chosen_path, from_here
from grpo_cli.foreign_text import quoted
from grpo_cli.rewards.table import code_files
from grpo_cli.trust import refuse_unnamed_rewards, remember_rewards


@dataclass
class Start:
    """The point a run is resumed from."""

    run_dir: Path
    checkpoint: Path | None  # None: the run starts again from step 0
    config: Config
    edited: dict[str, str] = field(default_factory=dict)  # keys edited in config.toml: `new instead of old`
    lock: RunLock | None = None  # None on all ranks but 0


def find_start(
    path: Path, overrides: Sequence[str], listener: events.Listener, stack: ExitStack, restart: bool = False
) -> Start:
    """Find the point to resume from, and lock the run's folder until `stack` is closed.

    `restart`: start again from step 0.
    """
    run_dir, named = locate(from_here(chosen_path(path)))
    lock = stack.enter_context(RunLock(run_dir))
    tidy(run_dir)
    own = own_config(run_dir, overrides, listener)
    checkpoint = choose(run_dir, named, listener, restart)
    config = own or resumed_config((checkpoint or run_dir) / CONFIG_FILE, run_dir, overrides)
    edited: dict[str, str] = {}
    if checkpoint is not None:
        folder, given = read_state(checkpoint)[0].started_in, keys_of(overrides)
        config = from_folder(config, folder, given)
        before = from_folder(load_config(str(checkpoint / CONFIG_FILE)).config, folder)
        # config.toml may have been edited, or the checkpoint may be that of another run.
        check_changes(in_folder(before, config), config)
        edited = edited_keys(before, config, given)
    refuse_unnamed_code(config, run_dir, overrides)
    return Start(run_dir, checkpoint, config, edited, lock)


def keys_of(overrides: Sequence[str]) -> set[str]:
    """The keys that `--set` options change."""
    return {entry.key for entry in read_overrides(overrides).entries}


def edited_keys(before: Config, after: Config, given: set[str]) -> dict[str, str]:
    """Keys that differ from the checkpoint's without a `--set`, each as `new instead of old`."""
    return {
        key: f"{toml_value(getattr(after, key))} instead of {toml_value(getattr(before, key))}"
        for key in Config.model_fields
        if key not in {*given, "output_dir", "run_name"} and getattr(before, key) != getattr(after, key)
    }


def refuse_unnamed_code(config: Config, run_dir: Path, overrides: Sequence[str]) -> None:
    """Remember reward files named by `--set`. Raises CheckpointError for files never named by the user."""
    for key in CODE_KEYS:
        names = getattr(config, key)
        entries = config.environments if key == "environment" else names
        files = [file for file in code_files(entries) if file.is_file()]
        if key not in keys_of(overrides):
            setting = quoted(f"{key}={toml_value(names)}")
            refuse_unnamed_rewards(files, run_dir, f"grpo resume {quoted(run_dir)} --set {setting}")
        remember_rewards(files)


def agreed(found: Start | None, world: World) -> Start:
    """Rank 0's start on every rank, with the checkpoint copied to its disk."""
    if world.size == 1 and found is not None:
        return found
    told: Any = None
    if found is not None:
        folder = str(from_here(found.checkpoint)) if found.checkpoint else ""
        told = [str(found.run_dir), folder, found.config.model_dump(mode="json"), found.edited]
    run_dir, checkpoint, keys, edited = world.first(told)
    brought = broadcast_checkpoint(Path(checkpoint), world) if checkpoint else None
    return Start(Path(run_dir), brought, Config.model_validate(keys), edited)


def choose(
    run_dir: Path, named: Path | None, listener: events.Listener, restart: bool = False
) -> Path | None:
    """The checkpoint to resume from: the named one, or the newest intact one before it; None = from step 0.

    A run without checkpoints starts again from step 0. If all of its checkpoints are damaged, it does so only
    with `restart`. Raises CheckpointError if there is nothing to resume from.
    """
    damaged: list[str] = []

    def tell(folder: Path, problem: str) -> None:
        damaged.append(f"{folder.name} ({problem})")
        listener(events.Notice(f"{folder} is damaged ({problem}) and is skipped"))

    if restart:
        if named is not None:
            raise CheckpointError(
                f"--restart starts over from step 0, but {named} is a checkpoint",
                f"give the run's folder: `grpo resume {quoted(run_dir)} --restart`",
                trouble="resumable",
            )
        listener(events.Notice(f"{run_dir} starts over from step 0"))
        return None
    limit = None
    if named is not None:
        problem = damage(named)
        if problem is None:
            return named
        if named.name == FINAL:  # `final` is the newest, so all others may be used
            return choose(run_dir, None, listener)
        tell(named, problem)
        step = step_in_manifest(named)[0]  # from its name if the manifest is damaged
        limit = step if step >= 0 else None
    chosen = newest_intact(run_dir, tell, limit)
    if chosen is not None:
        listener(events.Notice(f"resuming from {chosen}"))
        return chosen
    if damaged:
        raise CheckpointError(
            f"No checkpoint in {run_dir} is intact: {'; '.join(damaged)}",
            "copy an intact one here again; or start over from step 0, which keeps the existing files under "
            f"other names: `grpo resume {quoted(run_dir)} --restart`",
            trouble="checkpoint-files",
        )
    if named is None and (run_dir / CONFIG_FILE).exists():
        listener(events.Notice(f"{run_dir} holds no checkpoint yet: the run starts over"))
        return None
    raise CheckpointError(
        f"Checkpoint not found: no intact one in {run_dir}", existing(run_dir), trouble="checkpoint-not-found"
    )


def own_config(run_dir: Path, overrides: Sequence[str], listener: events.Listener) -> Config | None:
    """The configuration in the run's folder with the `--set` changes; None if it is missing or damaged."""
    file = run_dir / CONFIG_FILE
    if not file.exists():
        return None
    try:
        load_config(str(file))
    except ConfigError as error:
        listener(
            events.Notice(
                f"{file} is damaged ({error.message.splitlines()[0]}): the checkpoint's copy is used"
            )
        )
        return None
    return resumed_config(file, run_dir, overrides)


def resumed_config(file: Path, run_dir: Path, overrides: Sequence[str]) -> Config:
    """A run's configuration with the `--set` changes, for the folder that the run is in now."""
    config = load_config(str(file), overrides).config
    check_changes(load_config(str(file)).config, config)
    if config.run_dir.resolve() == run_dir.resolve():
        return config
    return config.model_copy(update={"output_dir": str(run_dir.parent), "run_name": run_dir.name})


def in_folder(config: Config, other: Config) -> Config:
    """The configuration with the run folder of `other`, since a copied checkpoint names its old folder."""
    return config.model_copy(update={"output_dir": other.output_dir, "run_name": other.run_name})
