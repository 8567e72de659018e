"""The training loop: prompt → rollout → reward → advantage → batch → loss → update.

    trainer.run(log, folder, interruption)      # run.py makes the trainer, its folder and its log

One step is one optimizer update on batch_size × gradient_accumulation_steps prompts with
num_generations completions each. Departs from DeepSeekMath's Algorithm 1 (arXiv:2402.03300) in that
the reference stays the initial policy, as everyone does since, and that the old logprobs are the
sampler's own: nothing is computed twice.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.advantages import compute_advantages
from grpo_cli.engine.batch import Microbatch, make_microbatches
from grpo_cli.engine.checkpoint import remove_old_checkpoints, save_checkpoint
from grpo_cli.engine.evaluate import evaluate
from grpo_cli.engine.interrupt import Interruption
from grpo_cli.engine.losses import LOSSES
from grpo_cli.engine.metrics import rollout_metrics
from grpo_cli.engine.optimizer import Optimizer
from grpo_cli.engine.order import DataOrder
from grpo_cli.engine.prompts import Prompt
from grpo_cli.engine.rollout import generate
from grpo_cli.engine.runlog import RunLog
from grpo_cli.engine.sampling import Sampling
from grpo_cli.engine.schedule import learning_rate
from grpo_cli.engine.update import (
    Objective,
    accumulate,
    check_finite,
    token_logprobs,
)
from grpo_cli.models.load import Policy
from grpo_cli.models.lora import adapters_off
from grpo_cli.rewards.score import score
from grpo_cli.rewards.table import RewardFunction
from grpo_cli.types import RolloutGroup


@dataclass
class Trainer:
    """Everything a run holds between steps; `run` goes through them."""

    config: Config
    policy: Policy
    reference: Policy | None  # a frozen copy; None without KL, and with LoRA, whose base is the reference
    rewards: list[tuple[str, RewardFunction]]
    train_prompts: list[Prompt]
    eval_prompts: list[Prompt]
    optimizer: Optimizer
    listener: events.Listener
    skipped_prompts: int = 0
    share_prefix: bool = True  # read each prompt once for its group
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    steps_done: int = 0
    rollout_seconds: float = 0.0  # of the current step; 0 where it reuses completions

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        batches = max(1, self.config.num_epochs * len(self.train_prompts) // self.config.prompts_per_step)
        steps = batches * self.config.num_iterations
        return min(steps, self.config.max_steps) if self.config.max_steps else steps

    def run(self, log: RunLog, folder: Path, interruption: Interruption) -> Path:
        """Make every step, evaluating and saving on the way; returns the `final` folder.

        Raises KeyboardInterrupt after the step that an interruption falls into is saved.
        """
        started = time.perf_counter()
        mx.random.seed(self.config.seed)
        self.announce(folder)
        self.evaluate(0, log)
        groups: list[RolloutGroup] = []
        batches: list[Microbatch] = []
        for step in range(1, self.total_steps + 1):
            step_started = time.perf_counter()
            device.reset_peak_memory()
            self.rollout_seconds = 0.0
            if (step - 1) % self.config.num_iterations == 0:
                groups = self.rollout((step - 1) // self.config.num_iterations)
                batches = self.batch(groups)
            update = self.update(step, batches)
            line = self.step_line(step, groups, update, time.perf_counter() - step_started)
            self.report_step(step, line, groups, log)
            self.steps_done = step
            if interruption.requested and step < self.total_steps:
                saved = self.save(folder / f"checkpoint-{step}", step)
                self.listener(events.Notice(f"interrupted after step {step}, which is saved in {saved}"))
                raise KeyboardInterrupt
            if self.is_due(step, self.config.eval_steps, last=True):
                self.evaluate(step, log)
            if self.is_due(step, self.config.save_steps, last=False):
                self.save(folder / f"checkpoint-{step}", step)
                remove_old_checkpoints(folder, self.config.keep_checkpoints)
        final = self.save(folder / "final", self.total_steps)
        first, last = (self.evaluations[0], self.evaluations[-1]) if self.evaluations else (None, None)
        seconds = time.perf_counter() - started
        base = str(self.policy.path) if self.policy.lora else None
        own_code = "model_file" in self.policy.config
        self.listener(
            events.RunFinished(folder, final, self.total_steps, seconds, first, last, base, own_code)
        )
        return final

    # --- the stages of a step ---------------------------------------------------------------------

    def rollout(self, batch_index: int) -> list[RolloutGroup]:
        """Sample and score the completions of the next prompts: P groups of G."""
        count = self.config.prompts_per_step
        order = DataOrder(len(self.train_prompts), self.config.seed)
        prompts = [self.train_prompts[index] for index in order.take(batch_index * count, count)]
        started = time.perf_counter()
        completions = generate(
            self.policy,
            [prompt.ids for prompt in prompts],
            self.config.num_generations,
            Sampling.for_training(self.config),
            lambda *progress: self.listener(events.RolloutProgress("rollout", *progress)),
            self.config.completion_prefix,
        )
        self.rollout_seconds = time.perf_counter() - started
        groups = [
            RolloutGroup(p.example, p.ids, rollouts) for p, rollouts in zip(prompts, completions, strict=True)
        ]
        score(self.rewards, self.config.reward_weight_list, groups)
        self.set_advantages(groups)
        return groups

    def set_advantages(self, groups: list[RolloutGroup]) -> None:
        """Compare every completion with its group."""
        scale = self.config.scale_rewards if LOSSES[self.config.loss_type].scales_rewards else "none"
        rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]  # (P, G)
        for group, advantages in zip(groups, compute_advantages(rewards, scale), strict=True):
            for rollout, advantage in zip(group.rollouts, advantages, strict=True):
                rollout.advantage = advantage

    def batch(self, groups: list[RolloutGroup]) -> list[Microbatch]:
        """The step's microbatches, with the reference's logprobs where there is a KL term."""
        config, has_reference = self.config, self.config.kl_coeff > 0
        batches = make_microbatches(
            groups, LOSSES[config.loss_type], config.max_new_tokens, config.batch_size, has_reference
        )
        for batch in batches if has_reference else []:
            batch.ref_logprobs = self.reference_logprobs(batch)
            mx.eval(batch.ref_logprobs)
        return batches

    def reference_logprobs(self, batch: Microbatch) -> mx.array:
        """Logprobs (B, S) of the initial policy."""
        if self.reference:  # full fine-tuning, or adapters that were trained before
            return token_logprobs(self.reference.model, batch, self.config.temperature, self.share_prefix)
        with adapters_off(self.policy.model):
            logprobs = token_logprobs(self.policy.model, batch, self.config.temperature, self.share_prefix)
            mx.eval(logprobs)  # before the adapters are on again
        return logprobs

    def update(self, step: int, batches: list[Microbatch]) -> dict[str, Any]:
        """One optimizer update; returns its numbers."""
        config, started = self.config, time.perf_counter()
        rate = learning_rate(
            step, self.total_steps, config.learning_rate, config.warmup_ratio, config.lr_scheduler_type
        )
        gradients, result = accumulate(
            self.policy.model,
            batches,
            Objective.of(config, self.share_prefix),
            lambda *progress: self.listener(events.UpdateProgress(*progress)),
        )
        check_finite(result, gradients, step)
        self.optimizer.step(self.policy.model, gradients, result.grad_norm, rate)
        return {
            "lr": rate,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "kl": result.kl,
            "clip_ratio": result.clip_ratio,
            "update_seconds": time.perf_counter() - started,
        }

    # --- what surrounds the steps -----------------------------------------------------------------

    def step_line(
        self, step: int, groups: list[RolloutGroup], update: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """The log's line of a step. Its seconds also hold rewards and the reference's logprobs."""
        tokens = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
        sampled = self.rollout_seconds > 0
        return {
            "step": step,
            "epoch": self.prompts_used(step) / len(self.train_prompts),
            **update,
            **rollout_metrics(groups),
            "rollout_seconds": self.rollout_seconds,
            "step_seconds": seconds,
            "rollout_tokens_per_second": tokens / self.rollout_seconds if sampled else None,
            "peak_memory_gb": device.peak_memory_gb(),
        }

    def prompts_used(self, step: int) -> int:
        """Prompts drawn from the stream by the end of a step."""
        return -(-step // self.config.num_iterations) * self.config.prompts_per_step

    def report_step(self, step: int, line: dict[str, Any], groups: list[RolloutGroup], log: RunLog) -> None:
        """Tell the listener of every step, the log of every logging_steps-th and the last."""
        self.listener(events.StepFinished(step, line, groups))
        if self.is_due(step, self.config.logging_steps, last=True):
            log.metrics(line)
            log.completions(step, groups, self.config.log_completions)

    def evaluate(self, step: int, log: RunLog) -> None:
        """Evaluate on the held-out prompts, if evaluation is on."""
        if not self.eval_prompts:
            return
        evaluation = evaluate(
            self.policy,
            self.eval_prompts,
            Sampling.for_evaluation(self.config),
            self.config.prompts_per_step * self.config.num_generations,
            prefix=self.config.completion_prefix,
            on_progress=lambda *progress: self.listener(events.RolloutProgress("evaluation", *progress)),
        )
        line = evaluation.line(step)
        self.evaluations.append(line)
        log.metrics(line)
        self.listener(events.EvaluationDone(step, line))

    def save(self, folder: Path, step: int) -> Path:
        """Write a checkpoint."""
        save_checkpoint(folder, self.policy, self.optimizer, self.state(step))
        self.listener(events.CheckpointSaved(step, folder))
        return folder

    def state(self, step: int) -> dict[str, Any]:
        """What, besides weights and optimizer, a later run needs to go on after this step."""
        return {
            "step": step,
            "total_steps": self.total_steps,
            "prompts_used": self.prompts_used(step),
            "random_state": random_state(),
        }

    def is_due(self, step: int, every: int, last: bool) -> bool:
        """Whether something done every so many steps (0: never) comes after this one."""
        return every > 0 and (step % every == 0 or (last and step == self.total_steps))

    def announce(self, folder: Path) -> None:
        """Tell the listener what is about to run."""
        self.listener(
            events.RunStarted(
                folder,
                self.total_steps,
                self.config.model_name,
                self.policy.parameter_count,
                self.policy.trainable_count,
                device.prepare().name,
                len(self.train_prompts),
                self.skipped_prompts,
            )
        )


def random_state() -> list[int]:
    """MLX's global random state: two words."""
    state: Any = mx.random.state  # a list of one key that mlx's stubs call an object
    return list(state[0].tolist())
