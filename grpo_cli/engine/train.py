"""The training loop: prompt → rollout → reward → advantage → batch → loss → update.

    trainer.run(log, saver, interruption)      # setup.py and resume.py make all four

One step is one optimizer update on batch_size × gradient_accumulation_steps prompts with
num_generations completions each; which they are is decided in rollout/buffer.py. Departs from DeepSeekMath's
Algorithm 1 (arXiv:2402.03300) in that the reference stays the initial policy, as everyone does since, and
that nothing is computed twice: the old logprobs are the sampler's own, or, where one step's rollouts serve
several updates, those of the first one's forward.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.engine import events
from grpo_cli.engine.evaluation.evaluate import evaluate, measure_by_reward
from grpo_cli.engine.guards.nonfinite import first_broken
from grpo_cli.engine.guards.nothing_learned import Teaching
from grpo_cli.engine.metrics import SOMETIMES, anomalies, rollout_metrics
from grpo_cli.engine.ranks.balance import checksum
from grpo_cli.engine.rollout.buffer import Draw, Part, Parts
from grpo_cli.engine.rollout.prompts import Prompt
from grpo_cli.engine.rollout.sampling import KeyChain, Sampling
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.log import RunLog
from grpo_cli.engine.run_dir.manifest import FINAL
from grpo_cli.engine.run_dir.rescue import Rescue, exited
from grpo_cli.engine.run_dir.run_state import RunState, random_state, restore_random_state
from grpo_cli.engine.run_dir.saver import Saver
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.stages import Stages
from grpo_cli.engine.update.batch import Counting
from grpo_cli.errors import Interrupted, TrainingError
from grpo_cli.models.tree import flat
from grpo_cli.rewards.notes import averages
from grpo_cli.rewards.table import REWARDS, unique
from grpo_cli.types import RolloutGroup, TrainerState

MOST_SKIPPED = 3  # updates in a row
CURES = (
    "the state before them is kept: go on with `{resume} --set learning_rate=1e-6`, or with "
    '`--set max_grad_norm=0.1`; in a new run `dtype = "float32"` where memory allows'
)


@dataclass
class Trainer(Stages):
    """A run between steps; `run` goes through those that are left."""

    eval_prompts: list[Prompt] = field(default_factory=list)
    skipped_prompts: int = 0
    state: RunState = field(default_factory=RunState)

    def __post_init__(self) -> None:
        super().__post_init__()
        config = self.config
        self.parts = Parts(config.prompts_per_step, config.steps_per_generation, config.num_iterations)
        self.rescue = Rescue()
        own = {name for name, function in self.rewards if function not in REWARDS.values()}
        self.teaching = Teaching(config, own)
        self.told: set[str] = set()  # anomalies that a notice was given of
        self.has_heard = False  # of an interruption

    def run(self, log: RunLog, saver: Saver, interruption: Interruption) -> Path:
        """Make every step that is left, evaluating and saving on the way; returns the `final` folder.

        Raises Interrupted after the step that an interruption falls into is saved, TrainingError
        after three updates in a row that were no numbers, CheckpointError after three failed saves. Whatever
        ends it, what was done is saved.
        """
        started = time.perf_counter()
        self.interruption = interruption
        self.teaching.has_taught = self.state.has_taught
        self.announce(saver.shown)
        try:
            self.begin(log, saver)
            for step in range(self.state.step + 1, self.total_steps + 1):
                self.make_step(step, log, saver)
                is_last = step == self.total_steps
                is_interrupted = self.world.any(interruption.requested)
                if is_last or not is_interrupted:
                    self.evaluate_if_due(log)
                if is_interrupted and not is_last:
                    self.save_interrupted(saver)
                    raise Interrupted(f"Stopped after step {step}.")
                if self.is_due(step, self.config.save_steps, last=False):
                    saver.save(self.sound_snapshot(saver))
            final = saver.save_final(self.sound_snapshot(saver))
            self.world.gather(None)  # nobody leaves before it is saved
        except BaseException as error:  # whatever ends a run, what was done is saved
            ending = exited(error) if isinstance(error, SystemExit) else error  # else it would seem done
            for line in self.rescue.save(log, saver, error):
                ending.add_note(line)
            if ending is not error:
                raise ending from error
            raise
        self.finish(saver.shown, time.perf_counter() - started)
        return final

    def make_step(self, step: int, log: RunLog, saver: Saver) -> None:
        """One update, with its rollouts where the last ones are used up, and its line in the log."""
        started = time.perf_counter()
        device.reset_peak_memory()
        with self.interruption.breakable():
            part, is_fresh = self.next_part()
            self.world.at("updating")
            if part.batches is None:
                part.batches = self.batch(part.groups)
        can_teach = self.could_teach(part.groups)
        update = self.update(step, part.batches, is_fresh)
        taught = can_teach and "skipped" not in update
        self.state.has_taught = self.state.has_taught or taught
        self.advance(step, update, log)  # before anything is told: telling may fail
        line = self.step_line(step, part.groups, update, time.perf_counter() - started)
        self.teaching.take(line, part.groups, taught)
        self.log_step(line, part.groups, log)
        self.report_step(step, line, part.groups, log)
        self.stop_if_broken(saver)

    def could_teach(self, groups: list[RolloutGroup]) -> bool:
        """Whether some completion that counts is better or worse than its group."""
        counting = Counting.of(self.config)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return any(rollout.advantage != 0.0 and counting.length(rollout) for rollout in rollouts)

    def next_part(self) -> tuple[Part, bool]:
        """What the next step learns from, and whether it was sampled just now."""
        is_fresh, self.drawn = not self.parts.waiting, None
        if is_fresh:
            used = self.state.prompts_used
            self.trainer_state = TrainerState(
                self.state.step, self.total_steps, used / len(self.train_prompts)
            )
            self.parts.fill(self.rollout(used))
            for part in self.parts.waiting[1:] if self.config.quantize_for_rollouts else []:
                part.batches = self.batch(part.groups)
                self.remember_old(part.batches)
        return self.parts.waiting[0], is_fresh

    def begin(self, log: RunLog, saver: Saver) -> None:
        """Seed what is random, or go on with it where the checkpoint was, and evaluate if that is due.

        Raises CheckpointError where the disk has no room for a single checkpoint.
        """
        if self.state.random_state:
            restore_random_state(self.state.random_state)
            # Runs of old sampled from MLX's own state, which the chain continues to the same numbers.
            self.random = KeyChain(self.state.sampling_state or self.state.random_state)
        else:
            mx.random.seed(self.config.seed)
        self.note_random_states()
        self.keep(log)
        saver.check_room(self.snapshot())
        if self.evaluate_if_due(log) and self.is_due(self.state.step, self.config.save_steps, last=False):
            saver.save(self.snapshot())  # it was saved without this evaluation

    def advance(self, step: int, update: dict[str, Any], log: RunLog) -> None:
        """Move the run's state past a step."""
        self.parts.advance(step)
        self.state.faults = [*self.state.faults, update["skipped"]] if "skipped" in update else []
        self.state.step = step
        self.state.prompts_used = self.drawn.position if self.drawn else self.state.prompts_used
        self.state.evaluated = False
        self.note_random_states()
        self.keep(log)

    def keep(self, log: RunLog) -> None:
        """Have a rescue save the run as it stands, unless its latest update was none."""
        self.state.log_positions = log.positions()
        if not self.state.faults:
            self.rescue.keep(self.snapshot())

    def stop_if_broken(self, saver: Saver) -> None:
        """Raise TrainingError after three updates in a row that were none."""
        step, faults = self.state.step, self.state.faults
        if len(faults) >= MOST_SKIPPED:
            raise TrainingError(
                f"NaN gradient encountered in {MOST_SKIPPED} updates in a row, at steps "
                f"{step - MOST_SKIPPED + 1} to {step}: NaN or infinite "
                f"{', then '.join(dict.fromkeys(faults))}",
                CURES.format(resume=saver.resume_command),
                trouble="nan-gradient",
            )

    def note_random_states(self) -> None:
        """Have the state go on from the random numbers as they are now."""
        self.state.random_state, self.state.sampling_state = random_state(), self.random.words

    def snapshot(self) -> Snapshot:
        """The run as it stands, for a checkpoint."""
        self.state.total_steps = self.total_steps
        return Snapshot(self.policy, self.optimizer, self.config, self.state.copy(), self.parts.groups)

    def sound_snapshot(self, saver: Saver) -> Snapshot:
        """The run as it stands; TrainingError where a weight is NaN: it would push out sound checkpoints."""
        self.world.at("saving")
        self.bring_together()
        name = first_broken(flat(self.policy.model.parameters()))
        if name is not None:
            raise TrainingError(
                f"NaN gradient encountered: after step {self.state.step} the weight {name} "
                "is NaN or infinite",
                "it is not saved; go on from the checkpoint before it with a lower rate: "
                f"`{saver.resume_command} --set learning_rate=1e-6`, or with `--set max_grad_norm=0.1`",
                trouble="nan-gradient",
            )
        return self.snapshot()

    def bring_together(self) -> None:
        """Give all ranks the first one's weights, should theirs differ: unlike devices round differently."""
        if self.world.size == 1:
            return
        arrays = {**self.trained(), **self.optimizer.arrays()}
        first, *others = self.world.gather(checksum(arrays))
        if all(other == first for other in others):
            return
        self.listener(events.Notice("the ranks' weights differ by rounding: rank 0's are taken for all"))
        self.policy.model.update(self.world.of_first(self.policy.model.trainable_parameters()))
        self.optimizer.restore(self.world.of_first(self.optimizer.arrays()))

    def progress(self, event: events.RolloutProgress | events.UpdateProgress) -> None:
        """Tell of work that goes on, and once, what comes of an interruption."""
        super().progress(event)
        if self.interruption.requested and not self.has_heard:
            self.has_heard = True
            step = self.state.step + 1
            self.listener(
                events.Notice(f"Stopping after step {step} (saving…). Press Ctrl-C again to quit now.")
            )

    def save_interrupted(self, saver: Saver) -> None:
        """Save the step after which an interruption ends the run."""
        saver.save(self.sound_snapshot(saver))
        self.world.gather(None)  # a rank that leaves early has the launcher end the others

    def finish(self, folder: Path, seconds: float) -> None:
        """Tell the listener of the end."""
        evaluations = self.state.evaluations
        first, last = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
        base = str(self.policy.path) if self.policy.lora else None
        own_code = "model_file" in self.policy.config
        self.teaching.accuracy = last["eval_accuracy"] if last else None
        nothing = self.teaching.explain()
        steps = self.total_steps
        final = folder / FINAL
        self.listener(events.RunFinished(folder, final, steps, seconds, first, last, base, own_code, nothing))

    def step_line(
        self, step: int, groups: list[RolloutGroup], update: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """The log's line of a step. Its seconds also hold rewards and the reference's logprobs."""
        drawn = self.drawn or Draw(0, self.state.prompts_used)
        line = {
            "step": step,
            "epoch": drawn.position / len(self.train_prompts),
            **update,
            **rollout_metrics(groups),
            **(drawn.numbers() if self.config.dynamic_sampling else {}),
            "rollout_seconds": drawn.seconds,
            "step_seconds": seconds,
            "rollout_tokens_per_second": drawn.tokens / drawn.seconds if drawn.seconds > 0 else None,
            "peak_memory_gb": device.peak_memory_gb(),
        }
        for name, value in averages(drawn.metrics).items():
            line[unique(name, {*line, *SOMETIMES})] = value
        found = anomalies(line)
        return {**line, "flags": list(found)} if found else line

    def report_step(self, step: int, line: dict[str, Any], groups: list[RolloutGroup], log: RunLog) -> None:
        """Tell the listener of a step, of what is not as it should be in it, and of a log that is refused."""
        self.listener(events.StepFinished(step, line, groups))
        for text in self.teaching.notices(step == self.total_steps):
            self.listener(events.Notice(text))
        found = anomalies(line)
        if log.refusal:
            found["log"] = f"the log cannot be written: {log.refusal}; its lines are kept until it can"
        for kind, text in found.items():
            if kind not in self.told:
                self.told.add(kind)
                self.listener(events.Notice(f"step {step}: {text}"))

    def log_step(self, line: dict[str, Any], groups: list[RolloutGroup], log: RunLog) -> None:
        """Write the log of every logging_steps-th step and of the last."""
        if self.is_due(line["step"], self.config.logging_steps, last=True):
            self.rescue.log(log.step, line, groups, self.config.log_completions)
        self.keep(log)

    def evaluate_if_due(self, log: RunLog) -> bool:
        """Evaluate on the held-out prompts, if it is time and was not done; whether it was."""
        step = self.state.step
        due = step == 0 or self.is_due(step, self.config.eval_steps, last=True)
        if not (self.eval_prompts and due) or self.state.evaluated:
            return False
        self.world.at("evaluating")
        with self.interruption.breakable():
            evaluation = evaluate(
                self.policy,
                self.eval_prompts,
                Sampling.for_evaluation(self.config),
                self.config.prompts_per_step * self.config.num_generations,
                prefix=self.config.completion_prefix,
                on_progress=lambda *progress: self.progress(events.RolloutProgress("evaluation", *progress)),
                world=self.world,
            )
            measure_by_reward(evaluation, self.config, self.rewards)
        line = evaluation.line(step)
        log.evaluation(line)
        self.state.evaluations.append(line)
        self.state.evaluated = True
        self.keep(log)
        self.listener(events.EvaluationDone(step, line))
        return True

    def is_due(self, step: int, every: int, last: bool) -> bool:
        """Whether something done every so many steps (0: never) comes after this one."""
        return every > 0 and step > 0 and (step % every == 0 or (last and step == self.total_steps))

    def announce(self, folder: Path) -> None:
        """Tell the listener what is about to run."""
        self.listener(
            events.RunStarted(
                folder,
                self.total_steps,
                self.config.model_name,
                self.policy.parameter_count,
                self.policy.trainable_count,
                device.prepare().name + (f", {self.world.size} ranks" if self.world.size > 1 else ""),
                len(self.train_prompts),
                self.skipped_prompts,
                self.state.step,
                tuple(self.state.evaluations),
                self.config.logging_steps,
                self.config.eval_steps if self.eval_prompts else 0,
                self.config.save_steps,
            )
        )
