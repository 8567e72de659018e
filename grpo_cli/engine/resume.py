"""Resume a run from its newest intact checkpoint, or from a given one.

    resume(Path("outputs/prod"), ["max_steps=400"], listener)
    resume(Path("outputs/prod/checkpoint-200"), [], listener)

On a CPU weights and log are the same as without an interruption. Checkpoints newer than the one resumed from
are renamed, not deleted, since the run continues differently from there.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import mlx.core as mx

from grpo_cli import device
from grpo_cli.config.resumable import is_gone
from grpo_cli.config.schema import Config
from grpo_cli.distributed.phase import Phase
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.kernels import FAILED, LOSS, changed_kernels
from grpo_cli.engine.memory.check import check_memory, limit_cache
from grpo_cli.engine.ranks.same_setup import check_same_setup, settings
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.folder import words_for_the_disk, write_config
from grpo_cli.engine.run_dir.incidents import (
    KILLED,
    RESUMED,
    Incident,
    Incidents,
    read_incidents,
    time_lost,
    told,
)
from grpo_cli.engine.run_dir.inputs import EVALUATION, changed, is_measure
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.run_dir.log import COMPLETIONS, METRICS, RunLog
from grpo_cli.engine.run_dir.manifest import (
    FINAL,
    MANIFEST,
    checkpoints,
    step_in_manifest,
)
from grpo_cli.engine.run_dir.names import CONFIG_FILE, ROLLOUTS
from grpo_cli.engine.run_dir.resume_point import Start, agreed, find_start, keys_of
from grpo_cli.engine.run_dir.rollout_log import set_aside
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.run_dir.saver import Saver
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.sync_reference import restore_reference
from grpo_cli.engine.train import train_to_the_end
from grpo_cli.errors import CheckpointError, ConfigError, ModelError
from grpo_cli.files import copy_file
from grpo_cli.foreign_text import quoted
from grpo_cli.words import plural


def resume(
    path: Path,
    overrides: Sequence[str] = (),
    listener: events.Listener = events.silent,
    world: World = ALONE,
    *,
    restart: bool = False,
    accept_changes: bool = False,
) -> Path:
    """Resume a run; returns the folder of the final model.

    `path`: the run's folder or one of its checkpoints. A checkpoint that was copied elsewhere continues in
    the folder that contains it. With several ranks it is rank 0's path; the others receive what they lack.
    `restart`: start again from step 0; existing files are kept under other names. `accept_changes`: resume
    although the rewards' code or the examples have changed. Raises CheckpointError (`Checkpoint not found:
    …`) if there is nothing to resume, ConfigError for a key that cannot change, and the errors of training.
    """
    listener = events.Listeners(listener)
    with ExitStack() as stack:
        found = find_start(path, overrides, listener, stack, restart) if world.is_first else None
        start = agreed(found, world)
        check_same_setup(world, settings(start.config))
        world.set_timeout(start.config.rank_timeout)
        world.set_phase(Phase.LOADING)
        run = restored(start.config, start.checkpoint, listener, world)
        tell_changes(run, start, keys_of(overrides), accept_changes, listener)
        keep_kernels(run, listener)
        refuse_shorter(run)
        is_final = start.checkpoint is not None and start.checkpoint.name == FINAL
        if run.state.step == run.total_steps and is_final:
            return complete(run, start.run_dir, listener)
        budget = device.memory_budget(device.prepare())
        check_memory(run, budget)
        limit_cache(run, budget)
        run.record_answers(start.run_dir, is_new=restart)
        return train_from(start, run, listener)


def train_from(start: Start, run: Run, listener: events.Listener) -> Path:
    """Train the restored run to its end, and close it; returns the folder of the final model."""
    is_first = run.world.is_first
    if is_first:
        record_interruption(start, run, listener)
    log = reopened_log(start, run, listener) if is_first else RunLog(start.run_dir, False)
    saver = Saver(
        lock=start.lock or RunLock(start.run_dir),
        keep=start.config.keep_checkpoints,
        log=log,
        listener=listener,
        saved_step=run.state.step,
        writes=is_first,
        answers=run.answers,
    )
    try:
        with Interruption() as interruption:
            return train_to_the_end(run, log, saver, interruption)
    finally:
        run.close()
        log.close()


def record_interruption(start: Start, run: Run, listener: events.Listener) -> None:
    """Record a kill of the last process and the time lost until now, and tell the run's interruptions.

    Lost is the time since the checkpoint was saved, or since the last kill, unless the user stopped the run.
    """
    folder, step = start.run_dir, run.state.step
    before = read_incidents(folder)
    incidents = Incidents(lambda: folder)
    was_killed = start.lock is not None and start.lock.was_killed
    if not was_killed and not (before and before[-1].is_failed_end):
        return
    saved = (start.checkpoint or folder) / (MANIFEST if start.checkpoint else CONFIG_FILE)
    seconds = time_lost(saved.stat().st_mtime, time.time(), before) if saved.exists() else 0.0
    kind, done = (KILLED, "resumed from the newest checkpoint") if was_killed else (RESUMED, "resumed")
    incidents.record(Incident(kind=kind, step=step, done=done, seconds=seconds))
    for line in told(read_incidents(folder)):
        listener(events.Notice(line))


def reopened_log(start: Start, run: Run, listener: events.Listener) -> RunLog:
    """The run's log, truncated to the checkpoint's step. Newer checkpoints and logs are renamed first."""
    with words_for_the_disk(start.run_dir):
        set_aside_newer(start.run_dir, start.checkpoint, run.state.step, listener)
        write_config(start.run_dir, start.config)
        positions = log_positions(start.run_dir, run, listener)
        return RunLog(start.run_dir, start.config.log_jsonl, positions)


def refuse_shorter(run: Run) -> None:
    """Raise ConfigError if the run would end before the step it has already reached."""
    step, total = run.state.step, run.total_steps
    if step > total:
        raise ConfigError(
            f"the run has already made {step} steps and would end after {total}",
            f"`--set max_steps={2 * step}`, or resume from an earlier checkpoint",
            trouble="resumable",
        )


def log_positions(run_dir: Path, run: Run, listener: events.Listener) -> dict[str, int]:
    """Lengths in bytes to truncate the logs to: those of the checkpoint; 0 if the run starts again."""
    if run.state.step == 0:
        return {METRICS: 0, COMPLETIONS: 0}
    for name, position in run.state.log_positions.items():
        path = run_dir / name
        if path.exists() and path.stat().st_size < position:
            listener(
                events.Notice(f"{path} lacks lines of steps before {run.state.step}: it was cut or replaced")
            )
    return run.state.log_positions


def restored(config: Config, checkpoint: Path | None, listener: events.Listener, world: World = ALONE) -> Run:
    """Load the run in the state of the checkpoint; None = a new run.

    Raises CheckpointError if the training prompts are not those of the run.
    """
    if checkpoint is None:
        return prepare(config, listener, world=world)
    state, groups = read_state(checkpoint)
    try:
        run = prepare(config, listener, checkpoint, world, state.started_at)
    except ModelError as error:
        if is_gone("model_name", config.model_name):
            error.hint += (
                f"; the run's base was {config.model_name}, named in {state.started_in}: "
                "if it is now in DIR, add `--set model_name=DIR`"
            )
        raise
    if not state.started_at:
        as_before(run)
    if state.data != run.state.data:
        raise CheckpointError(
            f"The training prompts differ from those that the run in {checkpoint.parent} was started with",
            f"restore the dataset {config.dataset}, or start a new run from the weights: "
            f"`--set {quoted(f'model_name={checkpoint}')}`",
            trouble="resumable",
        )
    arrays: dict[str, mx.array] = mx.load(str(checkpoint / "optimizer.safetensors"))  # type: ignore[assignment]
    run.optimizer.restore(arrays)
    if config.sync_ref_model and run.reference:
        restore_reference(run.reference, checkpoint)
    run.state = replace(state, started_at=run.state.started_at, inputs=run.state.inputs)
    run.buffer.fill(groups)
    return run


def as_before(run: Run) -> None:
    """Use the prompt stream and checksum of earlier versions, whose state has no `started_at`."""
    run.train_prompts = run.train_prompts.fitting()
    digest = hashlib.sha256()
    for prompt in run.train_prompts:
        digest.update(json.dumps([prompt.ids, prompt.example.answer]).encode())
    run.state.data = digest.hexdigest()


def tell_changes(run: Run, start: Start, given: set[str], accept: bool, listener: events.Listener) -> None:
    """Report changes since the checkpoint, except those made by `--set`.

    Raises CheckpointError for changes that make rewards or scores incomparable, unless `accept`.
    """
    if start.checkpoint is None:
        return
    inputs = changed(read_state(start.checkpoint)[0].inputs, run.state.inputs)
    for key, values in start.edited.items():
        listener(events.Notice(f"{CONFIG_FILE} was edited: {key} = {values}"))
    for name in inputs:
        listener(events.Notice(f"changed since {start.checkpoint.name} was saved: {name}"))
    decisive = [*(name for name in inputs if not measured_by(name, given)), *filter(is_measure, start.edited)]
    if decisive and not accept:
        raise CheckpointError(
            f"Results before and after {start.checkpoint.name} would not be comparable, because something "
            f"changed since: {', '.join(decisive)}",
            f"restore it, or resume anyway: `grpo resume {quoted(start.run_dir)} --accept-changes`",
            trouble="resumable",
        )


def keep_kernels(run: Run, listener: events.Listener) -> None:
    """Compute the loss as before if its compilation failed on this device; report choices that differ."""
    before = run.state.kernels
    is_same = all(before.get(name) == run.kernels.get(name) for name in ("device", "mlx"))
    if run.compiled is not None and before.get(LOSS) == FAILED and is_same:
        run.compiled.is_off = True
    changes = changed_kernels(before, run.kernels)
    if changes:
        told = "kernels differ from the checkpoint's, so results are the same to rounding"
        listener(events.Notice(f"{told}: {'; '.join(changes)}"))


def measured_by(name: str, given: set[str]) -> bool:
    """True if the evaluation examples changed because of a `--set` of this command."""
    return name == EVALUATION and any(is_measure(key) and key.startswith("eval_") for key in given)


def set_aside_newer(run_dir: Path, checkpoint: Path | None, step: int, listener: events.Listener) -> None:
    """Rename checkpoints newer than the one resumed from, and if there are any, keep copies of the logs."""
    later = [
        folder
        for folder in checkpoints(run_dir)
        if folder != checkpoint and (step_in_manifest(folder)[0] > step or folder.name == FINAL)
    ]
    for folder in later:
        other = unused(folder.with_name(f"{folder.name}.aside"))
        folder.rename(other)
        listener(
            events.Notice(f"{folder.name} is kept as {other.name}, because the run now continues differently")
        )
    if not later and checkpoint is not None:
        return
    for name in (METRICS, COMPLETIONS):
        if (run_dir / name).exists() and (run_dir / name).stat().st_size:
            copy_file(run_dir / name, unused(run_dir / f"{name}.aside"))
    set_aside(run_dir, step, unused(run_dir / f"{ROLLOUTS}.aside"))


def unused(path: Path) -> Path:
    """The path, with -2, -3, … appended if it exists."""
    tries = (path.with_name(f"{path.name}-{number}") for number in range(2, 1000))
    return next(other for other in chain([path], tries) if not os.path.lexists(other))


def complete(run: Run, run_dir: Path, listener: events.Listener) -> Path:
    """Report that the run is already complete; returns its final folder."""
    more = 2 * run.total_steps
    listener(
        events.Notice(
            f"{run_dir} is complete, after {plural(run.total_steps, 'step')}; "
            f"`grpo resume {quoted(run_dir)} --set max_steps={more}` continues it"
        )
    )
    return run_dir / FINAL
