"""The training loop, and one step of it in the papers' words.

    final = train_to_the_end(run, log, saver, interruption)      # setup.py and resume.py make all four

A step is one optimizer update on batch_size × gradient_accumulation_steps prompts (P) with num_generations
completions (G) each. Departs from DeepSeekMath's Algorithm 1 (arXiv:2402.03300) in that the reference stays
the initial policy, as everyone does since, and that nothing is computed twice: the old logprobs are the
sampler's own, or, where one step's rollouts serve several updates, those of the first one's forward.
"""

import time
from pathlib import Path

from grpo_cli import device
from grpo_cli.engine import events
from grpo_cli.engine.collect_rollouts import collect_rollouts, set_advantages
from grpo_cli.engine.evaluation.evaluate import evaluate, measure_by_reward
from grpo_cli.engine.guards.nonfinite import first_broken
from grpo_cli.engine.metrics import step_metrics
from grpo_cli.engine.ranks.balance import checksum
from grpo_cli.engine.reporting import announce, finish, log_step, report_step
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.log import RunLog
from grpo_cli.engine.run_dir.rescue import exited
from grpo_cli.engine.run_dir.saver import Saver
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.update.batch import can_teach
from grpo_cli.engine.update_policy import make_batches, remember_old, update_policy
from grpo_cli.errors import Interrupted, TrainingError
from grpo_cli.models.tree import flat

MOST_SKIPPED = 3  # updates in a row
CURES = (
    "the state before them is kept: go on with `{resume} --set learning_rate=1e-6`, or with "
    '`--set max_grad_norm=0.1`; in a new run `dtype = "float32"` where memory allows'
)


def train_step(run: Run, step: int, log: RunLog) -> None:
    """One GRPO step: rollouts, rewards, advantages, microbatches, gradient, guards, optimizer, metrics.

    Rollouts of several steps are made at once where steps_per_generation or num_iterations say so; the step
    then takes the next part of them from the buffer.
    """
    started = time.perf_counter()
    device.reset_peak_memory()
    drawn: DrawnGroups | None = None  # None: the step learns from completions that were sampled before
    with run.interruption.breakable():
        if run.buffer.is_empty:
            drawn = collect_rollouts(run, run.state.prompts_used)  # prompts → completions → rewards
            fill_buffer(run, drawn)  # advantages (P, G)
        run.world.set_phase("updating")
        part = run.buffer.waiting[0]
        if part.batches is None:
            part.batches = make_batches(run, part.groups)  # ids (B, T), old and reference logprobs
    taught = can_teach(part.groups, run.config)
    update = update_policy(run, step, part.batches, is_on_policy=drawn is not None)
    taught = taught and "skipped" not in update
    run.state.has_taught = run.state.has_taught or taught
    used = drawn.position if drawn else run.state.prompts_used
    run.advance(step, used, update.get("skipped"), log.positions())  # before anything is told: that may fail
    seconds = time.perf_counter() - started
    drawn = drawn or DrawnGroups(wanted=0, position=used)
    epoch = used / len(run.train_prompts)
    metrics = step_metrics(step, epoch, part.groups, update, drawn, run.config.dynamic_sampling, seconds)
    run.teaching.take(metrics, part.groups, taught)
    log_step(run, metrics, part.groups, log)
    report_step(run, metrics, part.groups, log)


def fill_buffer(run: Run, drawn: DrawnGroups) -> None:
    """Give the completions that the coming steps learn from their advantages, and cut them into steps.

    Where a quantised copy sampled, the policy's own logprobs of later parts are taken now, before it moves.
    """
    groups = drawn.chosen()
    set_advantages(groups, run.config)
    run.buffer.fill(groups)
    for part in run.buffer.waiting[1:] if run.config.quantize_for_rollouts else []:
        part.batches = make_batches(run, part.groups)
        remember_old(run, part.batches)


def train_to_the_end(run: Run, log: RunLog, saver: Saver, interruption: Interruption) -> Path:
    """Make every step that is left, evaluating and saving on the way; returns the `final` folder.

    Raises Interrupted after the step that an interruption falls into is saved, TrainingError after three
    updates in a row that were no numbers, CheckpointError after three failed saves. Whatever ends it, what
    was done is saved.
    """
    started = time.perf_counter()
    run.interruption = interruption
    run.teaching.has_taught = run.state.has_taught
    announce(run, saver.shown)
    try:
        begin(run, log, saver)
        for step in range(run.state.step + 1, run.total_steps + 1):
            train_step(run, step, log)
            stop_if_broken(run, saver)
            after_step(run, log, saver)
        final = saver.save_final(sound_snapshot(run, saver))
        run.world.gather(None)  # nobody leaves before it is saved
    except BaseException as error:  # whatever ends a run, what was done is saved
        ending = exited(error) if isinstance(error, SystemExit) else error  # else it would seem done
        for line in run.rescue.save(log, saver, error):
            ending.add_note(line)
        if ending is not error:
            raise ending from error
        raise
    finish(run, saver.shown, time.perf_counter() - started)
    return final


def begin(run: Run, log: RunLog, saver: Saver) -> None:
    """Seed what is random, and evaluate before the first step if that is due.

    Raises CheckpointError where the disk has no room for a single checkpoint.
    """
    run.seed()
    run.keep(log.positions())
    saver.check_room(run.snapshot())
    if evaluate_if_due(run, log) and run.is_due(run.state.step, run.config.save_steps, last=False):
        saver.save(run.snapshot())  # it was saved without this evaluation


def after_step(run: Run, log: RunLog, saver: Saver) -> None:
    """Evaluate and save where it is time. Raises Interrupted, with the step saved, where a signal came."""
    step = run.state.step
    is_last = step == run.total_steps
    is_interrupted = run.world.any(run.interruption.requested)
    if is_last or not is_interrupted:
        evaluate_if_due(run, log)
    if is_interrupted and not is_last:
        saver.save(sound_snapshot(run, saver))
        run.world.gather(None)  # a rank that leaves early has the launcher end the others
        raise Interrupted(f"Stopped after step {step}.")
    if run.is_due(step, run.config.save_steps, last=False):
        saver.save(sound_snapshot(run, saver))


def evaluate_if_due(run: Run, log: RunLog) -> bool:
    """Evaluate on the held-out prompts, if it is time and was not done; whether it was."""
    step, config = run.state.step, run.config
    due = step == 0 or run.is_due(step, config.eval_steps, last=True)
    if not (run.eval_prompts and due) or run.state.evaluated:
        return False
    run.world.set_phase("evaluating")
    with run.interruption.breakable():
        evaluation = evaluate(
            run.policy,
            run.eval_prompts,
            Sampling.for_evaluation(config),
            config.prompts_per_step * config.num_generations,
            prefix=config.completion_prefix,
            on_progress=lambda *progress: run.progress(events.RolloutProgress("evaluation", *progress)),
            world=run.world,
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
    """Raise TrainingError after three updates in a row that were skipped."""
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
    """The run as it stands; TrainingError where a weight is NaN: it would push out sound checkpoints."""
    run.world.set_phase("saving")
    synchronize_weights(run)
    name = first_broken(flat(run.policy.model.parameters()))
    if name is not None:
        raise TrainingError(
            f"NaN gradient encountered: after step {run.state.step} the weight {name} is NaN or infinite",
            "it is not saved; go on from the checkpoint before it with a lower rate: "
            f"`{saver.resume_command} --set learning_rate=1e-6`, or with `--set max_grad_norm=0.1`",
            trouble="nan-gradient",
        )
    return run.snapshot()


def synchronize_weights(run: Run) -> None:
    """Give all ranks the first one's weights, should theirs differ: unlike devices round differently."""
    if run.world.size == 1:
        return
    arrays = {**run.trained_weights(), **run.optimizer.arrays()}
    first, *others = run.world.gather(checksum(arrays))
    if all(other == first for other in others):
        return
    run.listener(events.Notice("the ranks' weights differ by rounding: rank 0's are taken for all"))
    run.policy.model.update(run.world.broadcast_tree(run.policy.model.trainable_parameters()))
    run.optimizer.restore(run.world.broadcast_tree(run.optimizer.arrays()))
