"""Reports of a run to its listener and its log: the start, each step, the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.host.relief import forget_actions
from grpo_cli.engine.metrics import anomalies
from grpo_cli.engine.ranks.same_setup import PACKAGES, version
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.incidents import read_incidents, told
from grpo_cli.engine.run_dir.log import RunLog
from grpo_cli.engine.run_dir.machines import record_machine, this_machine
from grpo_cli.engine.run_dir.manifest import FINAL
from grpo_cli.engine.run_dir.rollout_log import RolloutLog
from grpo_cli.engine.run_dir.saver import Saver
from grpo_cli.trackers.report import reporting
from grpo_cli.types import RolloutGroup


@contextmanager
def reported(run: Run, folder: Path) -> Iterator[None]:
    """Report the run to its trackers (`report_to`) within the block; only rank 0 does."""
    names, listener = run.config.report_to, run.listener
    if not names or not run.world.is_first:
        yield
        return
    facts = {"name": run.config.run_dir.name, "config": run.config.model_dump()}
    with reporting(names, folder=folder, tell=listener, **facts) as tracking:
        run.listener = events.Listeners(listener, tracking)
        try:
            yield
        finally:
            run.listener = listener


@contextmanager
def keeping_rollouts(run: Run, saver: Saver) -> Iterator[None]:
    """Keep all completions of the newest steps within the block (`keep_rollouts`); only rank 0 does."""
    if not run.config.keep_rollouts or not run.world.is_first:
        yield
        return
    run.rollout_log = saver.rollouts = RolloutLog(
        saver.folder, run.config.keep_rollouts, run.policy.tokenizer.spell
    )
    try:
        yield
    finally:
        run.rollout_log.close()


def note_machine(run: Run, folder: Path) -> None:
    """Record the machine and the versions of this start in the run's folder; only rank 0 does."""
    if run.world.is_first:
        found = device.prepare()
        start = this_machine(
            step=run.state.step,
            device=found.name,
            memory_bytes=found.memory_bytes,
            ranks=run.world.size,
            versions={name: version(name) for name in PACKAGES},
        )
        record_machine(folder, start)


def is_first_use(config: Config, step: int) -> bool:
    """True if the completions of a step are new: later iterations train on them again (num_iterations)."""
    per_generation = config.steps_per_generation
    return (step - 1) % (per_generation * config.num_iterations) < per_generation


def announce(run: Run, folder: Path) -> None:
    """Send RunStarted to the listener."""
    config = run.config
    run.listener(
        events.RunStarted(
            run_dir=folder,
            total_steps=run.total_steps,
            model=config.model_name,
            parameters=run.policy.parameter_count,
            trainable_parameters=run.policy.trainable_count,
            device=device.prepare().name + (f", {run.world.size} ranks" if run.world.size > 1 else ""),
            train_examples=len(run.train_prompts),
            skipped_prompts=run.skipped_prompts,
            resumed_at=run.state.step,
            evaluations=tuple(run.state.evaluations),
            logging_steps=config.logging_steps,
            eval_steps=config.eval_steps if run.eval_prompts else 0,
            save_steps=config.save_steps,
            report_every=config.report_every,
        )
    )


def log_step(run: Run, metrics: dict[str, Any], groups: list[RolloutGroup], log: RunLog) -> None:
    """Write the log line of every logging_steps-th step and of the last step, and all new completions."""
    if run.is_due(metrics["step"], run.config.logging_steps, last=True):
        run.rescue.log(log.step, metrics, groups, run.config.log_completions)
        forget_actions(run)
    if run.rollout_log and is_first_use(run.config, metrics["step"]):
        run.rollout_log.put(metrics["step"], groups)
    run.keep(log.positions())


def report_step(run: Run, metrics: dict[str, Any], groups: list[RolloutGroup], log: RunLog) -> None:
    """Send StepFinished to the listener, and a notice for each new anomaly or a failed write of the log."""
    step = metrics["step"]
    run.listener(events.StepFinished(step, metrics, groups))
    for text in run.teaching.notices(step == run.total_steps):
        run.listener(events.Notice(text))
    found = anomalies(metrics)
    if log.refusal:
        found["log"] = f"the log cannot be written: {log.refusal}; its lines are kept and written later"
    if run.rollout_log and run.rollout_log.failure:
        found["rollouts"] = run.rollout_log.failure
    for kind, text in found.items():
        if kind not in run.told:
            run.told.add(kind)
            run.listener(events.Notice(f"step {step}: {text}"))


def finish(run: Run, folder: Path, seconds: float) -> None:
    """Send RunFinished to the listener, with the reason if nothing was learned."""
    evaluations = run.state.evaluations
    first, last = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
    base = str(run.policy.path) if run.policy.lora else None
    own_code = "model_file" in run.policy.config
    run.teaching.accuracy = last["eval_accuracy"] if last else None
    nothing = run.teaching.explain()
    steps, final = run.total_steps, folder / FINAL
    run.listener(
        events.RunFinished(
            run_dir=folder,
            final=final,
            steps=steps,
            seconds=seconds,
            first=first,
            last=last,
            adapters_on=base,
            own_code=own_code,
            nothing_learnt=nothing,
            interruptions=tuple(told(read_incidents(folder))),
        )
    )
