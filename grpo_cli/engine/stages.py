"""What a step is made of: sampling and scoring, microbatches with the reference's logprobs, the update.

    groups = stages.rollout(0)              # the stream's first prompts → rollouts → rewards → advantages
    batches = stages.batch(groups)          # → arrays
    numbers = stages.update(1, batches)     # → loss → gradient → weights

The trainer goes through them, step by step. Memory that runs short halves what is computed at once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.grpo.advantages import compute_advantages
from grpo_cli.engine.grpo.losses import LOSSES
from grpo_cli.engine.grpo.lr_schedule import learning_rate
from grpo_cli.engine.grpo.overlong import punish_overlong
from grpo_cli.engine.guards import logprob_mismatch as agreement
from grpo_cli.engine.guards.frozen_weights import Proof
from grpo_cli.engine.guards.nonfinite import Fault, find_fault, first_broken
from grpo_cli.engine.out_of_memory import RowLimit, in_parts
from grpo_cli.engine.outcome import has_advantages, nothing, update_numbers
from grpo_cli.engine.ranks.balance import deal
from grpo_cli.engine.rollout.buffer import Draw
from grpo_cli.engine.rollout.continuous_batch import BrokenPolicy
from grpo_cli.engine.rollout.generate import OnGroup, generate, of_all_ranks
from grpo_cli.engine.rollout.prompts import Prompt, Prompts
from grpo_cli.engine.rollout.quantized_policy import RolloutPolicy
from grpo_cli.engine.rollout.sampling import KeyChain, Sampling
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.update.batch import Counting, Microbatch, make_microbatches
from grpo_cli.engine.update.chunked_logits import Head
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.objective import Objective, UpdateResult, accumulate, token_logprobs
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.engine.update.packing import Budget
from grpo_cli.errors import TrainingError
from grpo_cli.models.adapters import adapters_off
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from grpo_cli.rewards.notes import together
from grpo_cli.rewards.score import Scorer
from grpo_cli.rewards.table import RewardFunction
from grpo_cli.types import NOT_TRAINING, Rollout, RolloutGroup
from grpo_cli.words import plural


@dataclass
class Stages:
    """Models, data and rewards of a run, and what is done with them in a step."""

    config: Config
    policy: Policy
    reference: Policy | None  # a frozen copy; None without KL, and with LoRA, whose base is the reference
    rewards: list[tuple[str, RewardFunction]]
    train_prompts: Prompts
    optimizer: Optimizer
    listener: events.Listener
    share_prefix: bool = True  # read each prompt once for its group
    head: Head | None = None  # how to make logits in slices, where the model comes apart
    checkpoint: bool = False  # compute layers again in the backward
    world: World = ALONE  # the ranks that the step's work is shared out to

    def __post_init__(self) -> None:
        self.random = KeyChain.of_seed(self.config.seed)  # of rollouts
        self.interruption = Interruption()  # nobody interrupts, until a run says who does
        self.trainer_state = NOT_TRAINING  # what rewards are told of the run
        self.drawn: Draw | None = None  # of the current step; None where it reuses completions
        self.agrees = False  # whether sampler and loss were seen to be of one policy
        self.proof = Proof(self.config)
        self.rollout_limit = RowLimit(on_lowering=self.tell_of_memory("rollouts"))
        self.update_limit = RowLimit(on_lowering=self.tell_of_memory("the update"))
        if self.policy.plan.trained == "single":
            self.update_limit.rows = 1
        self.scorer = scorer_of(self.config, self.rewards)
        self.sampler = RolloutPolicy(self.config, self.policy, self.listener)
        self.compiled = CompiledLoss.of(self.config, self.policy.model, self.share_prefix, self.listener)

    def progress(self, event: events.RolloutProgress | events.UpdateProgress) -> None:
        """Tell of work that goes on. Raises TrainingError where another rank is gone."""
        self.world.check()
        self.listener(event)

    def close(self) -> None:
        """End what rewards run in."""
        self.scorer.close()

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        config = self.config
        fitting = self.train_prompts.count(self.prompts_wanted)
        steps = max(1, config.num_epochs * fitting // config.prompts_per_step) * config.num_iterations
        return min(steps, config.max_steps) if config.max_steps else steps

    @property
    def prompts_wanted(self) -> int:
        """How many prompts of the dataset max_steps can use; 0: all."""
        batches = math.ceil(self.config.max_steps / self.config.num_iterations)
        return math.ceil(batches * self.config.prompts_per_step / self.config.num_epochs)

    @property
    def rollout_seconds(self) -> float:
        """Seconds that the current step's sampling took; 0 where it reuses completions."""
        return self.drawn.seconds if self.drawn else 0.0

    def rollout(self, position: int) -> list[RolloutGroup]:
        """Sample and score the completions of the stream's prompts from `position` on: groups of G.

        As many groups as the coming steps need, and with dynamic sampling, while the budget lasts, as many
        batches of them as it takes to have so many that can teach. `drawn` tells of all.
        """
        config = self.config
        self.drawn = draw = Draw(config.prompts_per_generation, position)
        budget = config.dynamic_sampling_budget if config.dynamic_sampling else 1
        while draw.missing and draw.batches < budget:
            prompts, left_out = self.train_prompts.take(draw.position, draw.next_count)
            draw.take(*self.sampled(prompts), left_out)
        groups = draw.chosen()
        self.set_advantages(groups)
        return groups

    def sampled(self, prompts: list[Prompt]) -> tuple[list[RolloutGroup], float, dict[str, list[float]]]:
        """The scored completions of some prompts, without advantages, and the seconds that sampling took.

        Last what rewards logged, by name.

        Each rank samples and scores its share, and knows all. Rewards that need not this thread begin with a
        group as soon as it is there, beside the sampling.
        """
        groups = [RolloutGroup(prompt.example, prompt.ids, []) for prompt in prompts]
        own = self.world.share(range(len(groups)))
        mine, size = [groups[place] for place in own], self.config.num_generations
        with self.scorer.beside(mine, size, self.trainer_state) as pending:

            def score(place: int, rollouts: list[Rollout]) -> None:
                groups[place].rollouts = rollouts
                pending.begin(own.index(place))

            started = time.perf_counter()
            self.world.at("sampling")
            self.sample(prompts, own, score)
            seconds = time.perf_counter() - started
            self.world.at("scoring")
        punish_overlong(groups, self.config.max_new_tokens, self.config.soft_overlong_tokens)
        found = of_all_ranks([groups[place].rollouts for place in own], self.world)
        for group, rollouts in zip(groups, found, strict=True):
            group.rollouts = rollouts
        all_seconds, metrics = zip(*self.world.gather([seconds, pending.metrics]), strict=True)
        return groups, max(all_seconds), together(metrics)

    def sample(self, prompts: list[Prompt], own: Sequence[int], on_group: OnGroup) -> None:
        """Sample G completions of the prompts at some places. TrainingError where the policy is broken."""
        try:
            generate(
                self.sampler.current(),
                [prompt.ids for prompt in prompts],
                self.config.num_generations,
                Sampling.for_training(self.config),
                lambda *progress: self.progress(events.RolloutProgress("rollout", *progress)),
                self.config.completion_prefix,
                self.rollout_limit,
                on_group,
                own,
                self.random,
            )
        except BrokenPolicy as error:
            weight = first_broken(flat(self.policy.model.parameters()))
            copied = ", which come from its quantised copy" if self.sampler.copy and not weight else ""
            raise TrainingError(
                error.message + (f"; NaN in the weight {weight}" if weight else copied),
                error.hint,
                trouble="nan-gradient",
            ) from error

    def set_advantages(self, groups: list[RolloutGroup]) -> None:
        """Compare every completion with its group."""
        scale = self.config.scale_rewards if LOSSES[self.config.loss_type].scales_rewards else "none"
        rewards = [[rollout.score for rollout in group.rollouts] for group in groups]  # (P, G)
        for group, advantages in zip(groups, compute_advantages(rewards, scale), strict=True):
            for rollout, advantage in zip(group.rollouts, advantages, strict=True):
                rollout.advantage = advantage

    def batch(self, groups: list[RolloutGroup]) -> list[Microbatch]:
        """The step's microbatches, with the reference's logprobs where there is a KL term."""
        config, has_reference = self.config, self.config.kl_coeff > 0
        made = make_microbatches(
            groups,
            LOSSES[config.loss_type],
            config.max_new_tokens,
            config.batch_size,
            has_reference,
            Counting.of(config),
            Budget(config.microbatch_tokens, self.share_prefix) if config.microbatch_tokens else None,
        )
        batches = deal(made, self.world.size)
        for batch in self.own(batches) if has_reference else []:
            parts = batch.in_rows(self.update_limit.rows)
            batch.ref_logprobs = mx.concatenate([self.reference_logprobs(part) for part in parts])
        return batches

    def own(self, batches: list[Microbatch]) -> list[Microbatch]:
        """Those that this rank computes."""
        return [batch for batch in batches if batch.rank == self.world.rank]

    def reference_logprobs(self, batch: Microbatch) -> mx.array:
        """Logprobs (B, S) of the initial policy."""
        if self.reference:  # full fine-tuning, or adapters that were trained before
            return self.logprobs_by(self.reference.model, batch)
        with adapters_off(self.policy.model):
            return self.logprobs_by(self.policy.model, batch)

    def logprobs_by(self, model: nn.Module, batch: Microbatch) -> mx.array:
        """A model's logprobs (B, S) by the loss's forward, evaluated; in parts where memory is short."""

        def compute(part: Microbatch) -> mx.array:
            temperature = self.config.temperature
            logprobs = token_logprobs(model, part, temperature, self.share_prefix, self.head)
            mx.eval(logprobs)
            return logprobs

        return mx.concatenate(list(in_parts(batch, compute, Microbatch.halves, self.update_limit.lower)))

    def remember_old(self, batches: list[Microbatch]) -> None:
        """Have the policy's logprobs as it is now, for microbatches that are learnt from after an update."""
        found = [
            mx.where(batch.completion_mask, self.logprobs_by(self.policy.model, batch), 0.0)
            if batch.rank == self.world.rank
            else mx.zeros(batch.targets.shape)
            for batch in batches
        ]
        for batch, logprobs in zip(batches, self.world.sum(found), strict=True):
            batch.remember(logprobs)

    def update(self, step: int, batches: list[Microbatch], is_fresh: bool = False) -> dict[str, Any]:
        """One optimizer update, or none where something is NaN; returns its numbers.

        Without a microbatch, since no group can teach, nothing changes: neither weights nor the optimizer's
        moments, and no weight decays. (PyTorch's AdamW, and TRL with it, would go on by its momentum.)
        `is_fresh`: the completions are of the weights as they are, so that sampler and loss can be compared.
        Raises TrainingError where they disagree, or where the weights do not move.
        """
        config, started = self.config, time.perf_counter()
        rate = learning_rate(
            step, self.total_steps, config.learning_rate, config.warmup_ratio, config.lr_scheduler_type
        )
        result, fault, deviation = (
            self.learn(batches, rate, is_fresh) if batches else (nothing(config), None, None)
        )
        return {
            "lr": rate,
            **update_numbers(result, fault),
            "ratio_deviation": deviation,
            "update_seconds": time.perf_counter() - started,
        }

    def learn(
        self, batches: list[Microbatch], rate: float, is_fresh: bool
    ) -> tuple[UpdateResult, Fault | None, float | None]:
        """Gradient and weights; what it did, what was no number, and how far sampler and loss differ."""
        self.world.at("updating")
        objective = Objective.of(self.config, self.share_prefix, self.head, self.checkpoint)
        proves = is_fresh and not self.proof.is_given and has_advantages(batches)
        if proves:
            self.proof.begin(self.trained())
        with self.interruption.breakable():
            gradients, result = accumulate(
                self.policy.model,
                batches,
                objective,
                lambda *progress: self.progress(events.UpdateProgress(*progress)),
                self.update_limit,
                self.world,
                compiled=self.compiled,
            )
            fault = find_fault(self.policy.model, self.own(batches), objective, result, gradients)
            if fault is not None:
                return result, fault, None
            deviation = self.compared(batches, result) if is_fresh else None
        self.sampler.outdate()
        self.optimizer.step(self.policy.model, gradients, result.grad_norm, rate)
        if proves:
            self.proof.end(self.trained(), result.grad_norm, rate)
        for batch, logprobs in zip(batches, result.logprobs, strict=True):
            if batch.old_is_current:
                batch.remember(logprobs)
        return result, None, deviation

    def trained(self) -> dict[str, mx.array]:
        """What the optimizer changes, by name: the float32 copies where the weights are half as wide."""
        return flat(self.optimizer.master or self.policy.model.trainable_parameters())

    def compared(self, batches: list[Microbatch], result: UpdateResult) -> float | None:
        """Mean |Δ logp| of loss and sampler; the first time, TrainingError where it is too large."""
        deviation = agreement.measure(batches, result.logprobs)
        if deviation is None:
            return None
        if not self.agrees:
            self.check_sampler(batches, deviation)
            self.agrees = True
        return deviation.mean

    def check_sampler(self, batches: list[Microbatch], deviation: agreement.Deviation) -> None:
        """Raise TrainingError where the sampler's logprobs are not those of a forward of its model."""
        model, own = self.policy.model, deviation
        if self.sampler.copy:
            model = self.sampler.copy.model
            again = agreement.measure(batches, [self.logprobs_by(model, batch) for batch in batches])
            own = again or deviation
        arrays = list(flat(model.parameters()).values())
        exact = device.prepare().kind == "cpu"
        allowed = agreement.tolerance(arrays, self.config.temperature, exact)
        agreement.check(
            own,
            allowed,
            self.policy.tokenizer,
            lambda: agreement.cause(model, batches, own, self.config.temperature),
        )
        if self.sampler.copy:
            self.sampler.check(deviation)

    def tell_of_memory(self, what: str) -> Callable[[int], None]:
        """What tells the listener that memory was short, and what was done about it."""

        def tell(rows: int) -> None:
            self.listener(
                events.Notice(
                    f"memory was short in {what}: from now on at most {plural(rows, 'completion')} at "
                    "once, to the same result. `batch_size = 1` with more `gradient_accumulation_steps` "
                    "needs less"
                )
            )

        return tell


def scorer_of(config: Config, rewards: list[tuple[str, RewardFunction]]) -> Scorer:
    """What scores completions as the configuration says; nothing of it runs before it is needed."""
    return Scorer(
        rewards,
        config.reward_weight_list,
        config.reward_timeout,
        config.reward_workers,
        config.reward_functions,
    )
