"""The GRPO training loop: sample completions, score them, compare each with its group, update the policy.

    final = train(config, listener)      # a whole run; resume.py continues one

GRPO (Group Relative Policy Optimization; DeepSeekMath, arXiv:2402.03300, Algorithm 1) trains a language
model, the policy, to earn more reward. One step:

1. Rollouts: sample G completions of each of P prompts, and keep the logprob of every sampled token.
2. Rewards: score each completion with the reward functions, one number per completion.
3. Advantages: (reward − mean of its group) / standard deviation of its group. The group of G completions of
   one prompt is the baseline, so no value model is trained. A group of equal rewards has advantage 0.
4. Loss of each token: w · −min(r·A, clip(r, 1 − ε, 1 + ε)·A) + kl_coeff · KL(policy ‖ reference)
   − entropy_coeff · H. Here r = π/π_old compares the policy with itself before the first update, A is the
   completion's advantage, the reference is the initial policy, and w is 1 unless a quantized copy sampled
   (grpo/importance_sampling.py). Other loss types change the first term or the averaging over tokens
   (grpo/losses.py); update/objective.py puts the terms together.
5. Gradient: computed in microbatches that fit into memory, and summed.
6. One optimizer update, skipped if the loss or the gradient is NaN; after three in a row the run ends.

P = batch_size × gradient_accumulation_steps, G = num_generations. With steps_per_generation = k, one
generation samples k · P prompts and each of k steps learns from its own part. With num_iterations = μ, every
part is learned from μ times. With dynamic_sampling, groups of equal rewards are replaced by new prompts.

Where π_old comes from, without a forward of its own wherever that is possible:

    num_iterations = 1                      the sampler's logprobs
    num_iterations > 1, k = 1               the forward of the first update on the completions: r is 1 there
    num_iterations > 1, k > 1               the sampler's logprobs
    a quantized copy sampled,               the forward of the first update; for later parts a forward at once
    or environments answered turns

Departure from Algorithm 1: the reference is not replaced by a newer policy, as is usual since, unless
sync_ref_model asks for it (sync_reference.py).
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.distributed.phase import Phase
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.collect_rollouts import collect_rollouts, set_advantages
from grpo_cli.engine.evaluation.evaluate import evaluate, measure_by_reward
from grpo_cli.engine.guards.nonfinite import first_broken
from grpo_cli.engine.host.relief import machine_numbers, relieve, working
from grpo_cli.engine.memory.check import check_memory, limit_cache
from grpo_cli.engine.metrics import step_metrics
from grpo_cli.engine.ranks.balance import checksum
from grpo_cli.engine.ranks.same_setup import check_same_setup, settings
from grpo_cli.engine.recovery import DeviceLost, Restart, ending_of, first_line
from grpo_cli.engine.reporting import (
    announce,
    finish,
    keeping_rollouts,
    log_step,
    note_machine,
    report_step,
    reported,
)
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.ending import forget_ending, record_ending
from grpo_cli.engine.run_dir.folder import (
    discard_empty_run,
    new_run_folder,
    refuse_existing_run,
    words_for_the_disk,
)
from grpo_cli.engine.run_dir.incidents import INTERRUPTED, Incident
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.run_dir.log import RunLog
from grpo_cli.engine.run_dir.rescue import exited
from grpo_cli.engine.run_dir.saver import Saver
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.sync_reference import sync_reference
from grpo_cli.engine.update.batch import can_teach
from grpo_cli.engine.update_policy import make_batches, remember_old, update_policy
from grpo_cli.errors import Interrupted, TrainingError
from grpo_cli.models.tree import flat
from grpo_cli.rewards.table import code_files
from grpo_cli.trust import remember_rewards

MOST_SKIPPED = 3  # the third skipped update in a row ends the run
CURES = (
    "the state before them is kept: resume with `{resume} --set learning_rate=1e-6`, or with "
    '`--set max_grad_norm=0.1`; in a new run, set `dtype = "float32"` if memory allows'
)


def train(config: Config, listener: events.Listener = events.silent, world: World = ALONE) -> Path:
    """Train from a configuration; returns the folder of the final model.

    Only rank 0 of a `world` writes files. A run that fails before its first step is done leaves no folder
    that would block the next attempt. Raises GrpoError for problems of configuration, data, model, rewards,
    checkpoints or training.
    """
    listener = events.Listeners(listener)
    if world.is_first:
        refuse_existing_run(config.run_dir)
    check_same_setup(world, settings(config))
    world.set_timeout(config.rank_timeout)
    world.set_phase(Phase.LOADING)
    run = prepare(config, listener, world=world)
    budget = device.memory_budget(device.prepare())
    check_memory(run, budget)
    limit_cache(run, budget)
    with folder_for(config, world) as lock:
        log: RunLog | None = None
        try:
            with words_for_the_disk(lock.folder):
                log = RunLog(lock.folder, config.log_jsonl and world.is_first)
            run.record_answers(lock.folder, is_new=True)
            saver = Saver(
                lock=lock,
                keep=config.keep_checkpoints,
                log=log,
                listener=listener,
                writes=world.is_first,
                answers=run.answers,
            )
            with Interruption() as interruption:
                return train_to_the_end(run, log, saver, interruption)
        finally:
            run.close()
            if log is not None:
                log.close()
            is_resumed = isinstance(
                sys.exception(), Restart | DeviceLost
            )  # from the same folder, which tells why
            if run.state.step == 0 and world.is_first and not is_resumed:
                discard_empty_run(lock)


@contextmanager
def folder_for(config: Config, world: World) -> Iterator[RunLock]:
    """The run's folder: created and locked by rank 0, only a path for the others."""
    if not world.is_first:
        yield RunLock(config.run_dir)
        return
    with new_run_folder(config) as lock:
        remember_rewards(code_files(config.code_entries))  # so that the run can be resumed
        yield lock


def train_step(run: Run, step: int, log: RunLog) -> None:
    """One GRPO step: rollouts, rewards, advantages, microbatches, gradient, guards, optimizer, metrics.

    With steps_per_generation or num_iterations above 1, one generation of rollouts serves several steps. The
    steps after the first then take their part from the buffer and sample nothing.
    """
    started = time.perf_counter()
    device.reset_peak_memory()
    drawn: DrawnGroups | None = None  # None: the step reuses rollouts of an earlier generation
    with run.interruption.breakable():
        if run.buffer.is_empty:
            run.cache_room.before_rollouts()
            drawn = collect_rollouts(run, run.state.prompts_used)  # prompts → completions → rewards
            fill_buffer(run, drawn)  # advantages (P, G)
        run.world.set_phase(Phase.UPDATING)
        run.cache_room.before_update()
        part = run.buffer.waiting[0]  # run.advance removes it, or puts it last for its next iteration
        if part.batches is None:
            part.batches = make_batches(run, part.groups)  # token ids (B, T), old and reference logprobs
    taught = can_teach(part.groups, run.config)  # for the warning of a run in which nothing is learned
    update = update_policy(run, step, part.batches, is_on_policy=drawn is not None)
    sync_reference(run, step)
    taught = taught and "skipped" not in update
    run.state.has_taught = run.state.has_taught or taught
    used = drawn.position if drawn else run.state.prompts_used
    run.advance(step, used, update.get("skipped"), log.positions())  # before logging, which may fail
    seconds = time.perf_counter() - started
    drawn = drawn or DrawnGroups(wanted=0, position=used)
    epoch = used / len(run.train_prompts)
    metrics = step_metrics(step, epoch, part.groups, update, drawn, run.config.dynamic_sampling, seconds)
    metrics |= machine_numbers(run)
    run.teaching.take(metrics, part.groups, taught)
    log_step(run, metrics, part.groups, log)
    report_step(run, metrics, part.groups, log)


def fill_buffer(run: Run, drawn: DrawnGroups) -> None:
    """Set the advantages of the sampled groups and split them into one part for each coming step.

    If a quantized copy sampled them, or environments answered turns, the policy's own logprobs of the later
    parts are computed now, before the first update changes the policy.
    """
    groups = drawn.chosen()
    set_advantages(groups, run.config)
    run.buffer.fill(groups)
    depend = any(rollout.logprobs_depend_on_time for group in groups for rollout in group.rollouts)
    for part in run.buffer.waiting[1:] if run.config.quantize_for_rollouts or depend else []:
        part.batches = make_batches(run, part.groups)
        remember_old(run, part.batches)


def train_to_the_end(run: Run, log: RunLog, saver: Saver, interruption: Interruption) -> Path:
    """Run all remaining steps, with evaluations and checkpoints; returns the `final` folder.

    Any error or signal that ends the run saves the finished steps first. A failure of the device that no
    retry answers becomes Restart or DeviceLost (recovery.py). Raises Interrupted once the step
    during which the signal came is saved, TrainingError after three skipped updates in a row, and
    CheckpointError after three failed saves.
    """
    started = time.perf_counter()
    run.interruption = interruption
    run.teaching.has_taught = run.state.has_taught
    run.incidents.folder = saver.lock.follow if saver.writes else None
    saver.limit = run.limit_for("saving")
    if saver.writes:  # before RunStarted: the parent of `--supervise` then trusts what the folder says
        forget_ending(saver.folder)
    with keeping_rollouts(run, saver), reported(run, saver.folder):
        note_machine(run, saver.folder)
        announce(run, saver.shown)
        final = remaining_steps(run, log, saver)
        finish(run, saver.shown, time.perf_counter() - started)
    return final


def remaining_steps(run: Run, log: RunLog, saver: Saver) -> Path:
    """Run the remaining steps and save the final model; any error saves the finished steps first."""
    try:
        with working(run):
            begin(run, log, saver)
            for step in range(run.state.step + 1, run.total_steps + 1):
                relieve(run, lambda: saver.save(sound_snapshot(run, saver)))
                train_step(run, step, log)
                stop_if_broken(run, saver)
                after_step(run, log, saver)
            final = saver.save_final(sound_snapshot(run, saver))
        run.world.gather(None)  # a barrier: no rank exits before rank 0 has saved
        if run.answers:
            run.answers.remove()
    except BaseException as error:  # every kind of ending saves the finished steps
        ending = rescued(run, log, saver, error)
        if ending is not error:
            raise ending from error
        raise
    return final


def rescued(run: Run, log: RunLog, saver: Saver, error: BaseException) -> BaseException:
    """Save the finished steps, and record the end; returns the error that ends the run."""
    is_dead = isinstance(ending_of(error), Restart | DeviceLost)
    with device.past_the_gpu() if is_dead else nullcontext():
        lines = run.rescue.save(log, saver, error)
    ending = ending_for(run, saver, error)  # now: a Ctrl-C may have come while it was saved
    for line in lines:
        ending.add_note(line)
    if saver.writes:
        record_ending(saver.lock, ending)
    run.incidents.record(incident_of(ending, saver.saved_step))
    return ending


def ending_for(run: Run, saver: Saver, error: BaseException) -> BaseException:
    """The error that ends the run in place of `error`, which may be MLX's own or a bare exit.

    After a failure of the device the run is started again, unless a signal asked for its end.
    """
    if isinstance(error, SystemExit):
        return exited(error)  # a bare exit looks like success
    ending = ending_of(error)
    if isinstance(ending, Restart | DeviceLost) and run.interruption.requested:
        return Interrupted(f"Stopped after a failure of the device: {ending.message}")
    if isinstance(ending, Restart):
        ending.run_dir = saver.folder
    return ending


def incident_of(error: BaseException, saved_step: int) -> Incident:
    """The incident of an error or a signal that ends the run, or this process of it."""
    words = first_line(str(error)) or type(error).__name__
    kind, done = "error", f"ended: {words}"
    if isinstance(error, Restart):
        kind, done = error.failure.name, "a new process"
    elif isinstance(error, DeviceLost):
        kind, done = error.failure.name, f"ended with exit code {error.exit_code}"
    elif isinstance(error, KeyboardInterrupt):
        kind = INTERRUPTED
    return Incident(kind=kind, step=max(saved_step, 0), reason=words, done=done)


def begin(run: Run, log: RunLog, saver: Saver) -> None:
    """Set the random state, check the free disk space, and evaluate before the first step if that is due.

    Raises CheckpointError if the disk has no room for one checkpoint.
    """
    run.seed()
    run.keep(log.positions())
    saver.check_room(run.snapshot())
    if evaluate_if_due(run, log) and run.is_due(run.state.step, run.config.save_steps, last=False):
        saver.save(run.snapshot())  # the checkpoint that the run resumed from lacks this evaluation


def after_step(run: Run, log: RunLog, saver: Saver) -> None:
    """Evaluate and save if due. After a signal, saves the step and raises Interrupted."""
    step = run.state.step
    is_last = step == run.total_steps
    is_interrupted = run.world.any(run.interruption.requested)
    if is_last or not is_interrupted:
        evaluate_if_due(run, log)
    if is_interrupted and not is_last:
        saver.save(sound_snapshot(run, saver))
        run.world.gather(None)  # a barrier: the launcher ends all ranks when the first one exits
        raise Interrupted(f"Stopped after step {step}.")
    if run.is_due(step, run.config.save_steps, last=False):
        saver.save(sound_snapshot(run, saver))


def evaluate_if_due(run: Run, log: RunLog) -> bool:
    """Evaluate on the held-out prompts if that is due and not done yet. True if it evaluated."""
    step, config = run.state.step, run.config
    due = step == 0 or run.is_due(step, config.eval_steps, last=True)
    if not (run.eval_prompts and due) or run.state.evaluated:
        return False
    run.world.set_phase(Phase.EVALUATING)
    with run.interruption.breakable():
        evaluation = evaluate(
            run.policy,
            run.eval_prompts,
            Sampling.for_evaluation(config),
            config.prompts_per_step * config.num_generations,
            prefix=config.completion_prefix,
            on_progress=lambda *progress: run.progress(events.RolloutProgress("evaluation", *progress)),
            world=run.world,
            make_session=run.make_session,
            strip_thinking=config.strip_thinking,
            limit=run.evaluation_limit,
        )
        measure_by_reward(evaluation, config, run.rewards)
    line = evaluation.line(step)
    log.evaluation(line)
    run.state.evaluations.append(line)
    run.state.evaluated = True
    run.keep(log.positions())
    run.listener(events.EvaluationDone(step, line))
    return True


def stop_if_broken(run: Run, saver: Saver) -> None:
    """Raise TrainingError after three skipped updates in a row."""
    step, faults = run.state.step, run.state.faults
    if len(faults) >= MOST_SKIPPED:
        raise TrainingError(
            f"NaN gradient encountered in {MOST_SKIPPED} updates in a row, at steps "
            f"{step - MOST_SKIPPED + 1} to {step}: NaN or infinite "
            f"{', then '.join(dict.fromkeys(faults))}",
            CURES.format(resume=saver.resume_command),
            trouble="nan-gradient",
        )


def sound_snapshot(run: Run, saver: Saver) -> Snapshot:
    """A snapshot for a checkpoint. Raises TrainingError if a weight is NaN or infinite.

    A checkpoint of broken weights is never saved: keep_checkpoints would delete good ones to make room.
    """
    run.world.set_phase(Phase.SAVING)
    synchronize_weights(run)
    name = first_broken(flat(run.policy.model.parameters()))
    if name is not None:
        raise TrainingError(
            f"NaN gradient encountered: after step {run.state.step} the weight {name} is NaN or infinite",
            "this step is not saved; resume from the checkpoint before it with a lower learning rate: "
            f"`{saver.resume_command} --set learning_rate=1e-6`, or with `--set max_grad_norm=0.1`",
            trouble="nan-gradient",
        )
    return run.snapshot()


def synchronize_weights(run: Run) -> None:
    """Copy rank 0's weights and optimizer state to all ranks if theirs differ, e.g. by rounding."""
    if run.world.size == 1:
        return
    arrays = {**run.trained_weights(), **run.optimizer.arrays()}
    first, *others = run.world.gather(checksum(arrays))
    if all(other == first for other in others):
        return
    run.listener(events.Notice("the ranks' weights differ by rounding: all ranks now use those of rank 0"))
    run.policy.model.update(run.world.broadcast_tree(run.policy.model.trainable_parameters()))
    run.optimizer.restore(run.world.broadcast_tree(run.optimizer.arrays()))
