"""Go on with a run from its newest intact checkpoint, or from one that is named.

    resume(Path("outputs/prod"), ["max_steps=400"], listener)
    resume(Path("outputs/prod/checkpoint-200"), [], listener)

On a CPU the weights and the log come out as if the run had never been interrupted. Checkpoints after
the one it goes on from are kept under another name, since the run takes another way from there.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.config.load import load_config
from grpo_cli.config.resumable import check_changes
from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.alike import check_alike, settings
from grpo_cli.engine.bring import bring
from grpo_cli.engine.intact import (
    FINAL,
    MANIFEST,
    checkpoints,
    damage,
    newest_intact,
    step_in_manifest,
    step_of,
)
from grpo_cli.engine.interrupt import Interruption
from grpo_cli.engine.lock import RunLock
from grpo_cli.engine.memory import check_memory
from grpo_cli.engine.run import prepare
from grpo_cli.engine.run_folder import CONFIG_FILE, tidy, words_for_the_disk, write_config
from grpo_cli.engine.runlog import COMPLETIONS, METRICS, RunLog
from grpo_cli.engine.saver import Saver
from grpo_cli.engine.state import read_state
from grpo_cli.engine.trainer import Trainer
from grpo_cli.errors import CheckpointError, ConfigError, ModelError


@dataclass
class Start:
    """Where a run goes on."""

    run_dir: Path
    checkpoint: Path | None  # None: it begins again
    config: Config


def resume(
    path: Path,
    overrides: Sequence[str] = (),
    listener: events.Listener = events.silent,
    world: World = ALONE,
) -> Path:
    """Go on with a run; returns the folder of the final model.

    `path`: the run's folder, or one checkpoint, wherever it was copied: the run then goes on beside it. With
    several ranks it is rank 0's; the others are sent what they lack of it.
    Raises CheckpointError (`Checkpoint not found: …`) where there is nothing to go on from, ConfigError for
    a change that cannot be made, and what training raises.
    """
    with ExitStack() as stack:
        found = find_start(path, overrides, listener, stack) if world.is_first else None
        start = agreed(found, world)
        check_alike(world, settings(start.config))
        world.expect(start.config.rank_timeout)
        world.at("loading")
        trainer = restored(start.config, start.checkpoint, listener, world)
        refuse_shorter(trainer)
        is_final = start.checkpoint is not None and start.checkpoint.name == FINAL
        if trainer.state.step == trainer.total_steps and is_final:
            return complete(trainer, start.run_dir, listener)
        check_memory(trainer, device.memory_budget(device.prepare()))
        log = reopened_log(start, trainer, listener) if world.is_first else RunLog(start.run_dir, False)
        saver = Saver(
            start.run_dir,
            start.config.keep_checkpoints,
            log,
            listener,
            saved_step=trainer.state.step,
            writes=world.is_first,
        )
        try:
            with Interruption(trainer.heard) as interruption:
                return trainer.run(log, saver, interruption)
        finally:
            trainer.close()
            log.close()


def find_start(path: Path, overrides: Sequence[str], listener: events.Listener, stack: ExitStack) -> Start:
    """Where the run goes on; its folder is locked until the stack is closed."""
    run_dir, named = locate(path)
    stack.enter_context(RunLock(run_dir))
    tidy(run_dir)
    own = own_config(run_dir, overrides, listener)
    checkpoint = choose(run_dir, named, listener)
    config = own or resumed_config((checkpoint or run_dir) / CONFIG_FILE, run_dir, overrides)
    if checkpoint is not None:
        # The folder's file may have been edited, or the checkpoint be another run's.
        check_changes(in_folder(load_config(str(checkpoint / CONFIG_FILE)).config, config), config)
    return Start(run_dir, checkpoint, config)


def agreed(found: Start | None, world: World) -> Start:
    """The start that rank 0 found, on every rank, with the checkpoint on its disk."""
    if world.size == 1 and found is not None:
        return found
    told: Any = None
    if found is not None:
        folder = str(from_here(found.checkpoint)) if found.checkpoint else ""
        told = [str(found.run_dir), folder, found.config.model_dump(mode="json")]
    run_dir, checkpoint, keys = world.first(told)
    brought = bring(Path(checkpoint), world) if checkpoint else None
    return Start(Path(run_dir), brought, Config.model_validate(keys))


def from_here(path: Path) -> Path:
    """A path as it is from the current folder, which other machines may have elsewhere."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def reopened_log(start: Start, trainer: Trainer, listener: events.Listener) -> RunLog:
    """The run's log, cut where the checkpoint was; what is newer than that is set aside."""
    with words_for_the_disk(start.run_dir):
        set_aside_newer(start.run_dir, start.checkpoint, trainer.state.step, listener)
        write_config(start.run_dir, start.config)
        positions = log_positions(start.run_dir, trainer, listener)
        return RunLog(start.run_dir, start.config.log_jsonl, positions)


def locate(path: Path) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint if one was named. Raises CheckpointError for neither."""
    if path.name in ("", ".", ".."):
        path = path.resolve()
    if path.is_dir():
        is_checkpoint = (path / MANIFEST).exists() or step_of(path) is not None or path.name == FINAL
        if is_checkpoint:
            return path.absolute().parent, path.absolute()
        if (path / CONFIG_FILE).exists() or checkpoints(path):
            return path, None
    raise CheckpointError(f"Checkpoint not found: {path}", existing(path), trouble="checkpoint-not-found")


def existing(path: Path) -> str:
    """Which checkpoints there are near a path that is none."""
    parent = path if path.is_dir() else path.parent
    found = [str(folder) for run in (parent, *sorted(parent.glob("*/"))) for folder in checkpoints(run)]
    if found:
        return f"there are {', '.join(found[:8])}" + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return f"{parent} holds none; a run's folder is `<output_dir>/<run_name>`"


def choose(run_dir: Path, named: Path | None, listener: events.Listener) -> Path | None:
    """The checkpoint to go on from: the newest intact one, up to the named one; None: from the start.

    Raises CheckpointError where there is neither a checkpoint nor a run that could begin again.
    """

    def tell(folder: Path, problem: str) -> None:
        listener(events.Notice(f"{folder} is damaged ({problem}) and is left out"))

    limit = None
    if named is not None:
        problem = damage(named)
        if problem is None:
            return named
        if named.name == FINAL:  # the last one: any other is older, or as old
            return choose(run_dir, None, listener)
        tell(named, problem)
        step = step_in_manifest(named)[0]  # that of its name where its manifest is damaged
        limit = step if step >= 0 else None
    chosen = newest_intact(run_dir, tell, limit)
    if chosen is not None:
        listener(events.Notice(f"going on from {chosen}"))
        return chosen
    if named is None and (run_dir / CONFIG_FILE).exists():
        listener(events.Notice(f"{run_dir} holds no intact checkpoint: the run begins again"))
        return None
    raise CheckpointError(
        f"Checkpoint not found: no intact one in {run_dir}", existing(run_dir), trouble="checkpoint-not-found"
    )


def own_config(run_dir: Path, overrides: Sequence[str], listener: events.Listener) -> Config | None:
    """The configuration in the run's folder with the changes asked for; None: it is missing or damaged."""
    file = run_dir / CONFIG_FILE
    if not file.exists():
        return None
    try:
        load_config(str(file))
    except ConfigError as error:
        listener(
            events.Notice(f"{file} is damaged ({error.message.splitlines()[0]}): the checkpoint's is taken")
        )
        return None
    return resumed_config(file, run_dir, overrides)


def resumed_config(file: Path, run_dir: Path, overrides: Sequence[str]) -> Config:
    """A run's configuration with the changes asked for, in the folder that the run is in now."""
    config = load_config(str(file), overrides).config
    check_changes(load_config(str(file)).config, config)
    if config.run_dir.resolve() == run_dir.resolve():
        return config
    return config.model_copy(update={"output_dir": str(run_dir.parent), "run_name": run_dir.name})


def in_folder(config: Config, other: Config) -> Config:
    """A configuration in the folder of another, which a copied checkpoint's is not."""
    return config.model_copy(update={"output_dir": other.output_dir, "run_name": other.run_name})


def refuse_shorter(trainer: Trainer) -> None:
    """Raise ConfigError where the run is to end before where it is."""
    step, total = trainer.state.step, trainer.total_steps
    if step > total:
        raise ConfigError(
            f"the run has made {step} steps already, and is to end after {total}",
            f"`--set max_steps={2 * step}`, or go on from an earlier checkpoint",
            trouble="resumable",
        )


def log_positions(run_dir: Path, trainer: Trainer, listener: events.Listener) -> dict[str, int]:
    """Where to cut the logs: where the checkpoint was, or at their beginning where the run begins again."""
    if trainer.state.step == 0:
        return {METRICS: 0, COMPLETIONS: 0}
    for name, position in trainer.state.log_positions.items():
        path = run_dir / name
        if path.exists() and path.stat().st_size < position:
            listener(
                events.Notice(
                    f"{path} lacks lines of steps before {trainer.state.step}: it was cut or replaced"
                )
            )
    return trainer.state.log_positions


def restored(
    config: Config, checkpoint: Path | None, listener: events.Listener, world: World = ALONE
) -> Trainer:
    """The trainer as it was when the checkpoint was saved."""
    if checkpoint is None:
        return prepare(config, listener, world=world)
    state, groups = read_state(checkpoint)
    try:
        trainer = prepare(config, listener, checkpoint, world)
    except ModelError as error:
        error.hint += f"; the run was started in {state.started_in}: resume it there if names are relative"
        raise
    if state.data != trainer.state.data:
        raise CheckpointError(
            f"The training prompts are not those that the run in {checkpoint.parent} was started with",
            f"bring back the dataset {config.dataset} as it was, or start a new run from the weights: "
            f"`--set model_name={checkpoint}`",
            trouble="resumable",
        )
    arrays: dict[str, mx.array] = mx.load(str(checkpoint / "optimizer.safetensors"))  # type: ignore[assignment]
    trainer.optimizer.restore(arrays)
    trainer.state = state
    trainer.parts.fill(groups)
    return trainer


def set_aside_newer(run_dir: Path, checkpoint: Path | None, step: int, listener: events.Listener) -> None:
    """Rename the checkpoints of steps after the one the run goes on from; the logs are copied then."""
    later = [
        folder
        for folder in checkpoints(run_dir)
        if folder != checkpoint and (step_in_manifest(folder)[0] > step or folder.name == FINAL)
    ]
    for folder in later:
        other = unused(folder.with_name(f"{folder.name}.aside"))
        folder.rename(other)
        listener(events.Notice(f"{folder.name} is kept as {other.name}: the run takes another way now"))
    if not later and checkpoint is not None:
        return
    for name in (METRICS, COMPLETIONS):
        if (run_dir / name).exists() and (run_dir / name).stat().st_size:
            shutil.copyfile(run_dir / name, unused(run_dir / f"{name}.aside"))


def unused(path: Path) -> Path:
    """A path that is not there yet, made by counting."""
    tries = (path.with_name(f"{path.name}-{number}") for number in range(2, 1000))
    return path if not path.exists() else next(other for other in tries if not other.exists())


def complete(trainer: Trainer, run_dir: Path, listener: events.Listener) -> Path:
    """Nothing is left to do: say so."""
    more = 2 * trainer.total_steps
    listener(
        events.Notice(
            f"{run_dir} is complete: all {trainer.total_steps} steps are made; "
            f"`grpo resume {run_dir} --set max_steps={more}` makes more"
        )
    )
    return run_dir / FINAL
