"""Sample completions of the next prompts and score them.

    drawn = collect_rollouts(run, position=0)       # the stream's first prompts → completions → rewards
    groups = drawn.chosen()                         # P groups of G completions
    set_advantages(groups, run.config)              # each reward compared with its group's

Each rank samples and scores its share of the prompts; then all ranks exchange their results.
"""

import time
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.grpo.advantages import compute_advantages, decoupled_advantages
from grpo_cli.engine.grpo.overlong import punish_overlong
from grpo_cli.engine.guards import logprob_mismatch
from grpo_cli.engine.guards.nonfinite import first_broken
from grpo_cli.engine.memory.estimate import updated_at_once
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.engine.rollout.continuous_batch import BrokenPolicy
from grpo_cli.engine.rollout.generate import OnGroup, generate, of_all_ranks
from grpo_cli.engine.rollout.prompts import Prompt
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.rollout.thinking import set_answers
from grpo_cli.engine.run import Run
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update_policy import check_logprobs, logprobs_by
from grpo_cli.errors import TrainingError
from grpo_cli.models.tree import flat
from grpo_cli.rewards.notes import together
from grpo_cli.types import Rollout, RolloutGroup

Scored = tuple[list[RolloutGroup], float, dict[str, list[float]]]  # groups, seconds, the rewards' metrics


def collect_rollouts(run: Run, position: int) -> DrawnGroups:
    """Sample and score completions of the stream's prompts from `position` on: one generation's groups.

    Without dynamic sampling that is one batch. With it (DAPO, arXiv:2503.14476, section 3.2), batches are
    drawn until enough groups have a non-zero advantage or the budget of batches is used up.
    """
    config = run.config
    drawn = DrawnGroups(
        wanted=config.prompts_per_generation, position=position, weights=config.decoupled_weights
    )
    budget = config.dynamic_sampling_budget if config.dynamic_sampling else 1
    while drawn.missing and drawn.batches < budget:
        prompts, left_out = run.train_prompts.take(drawn.position, drawn.next_count)
        drawn.take(*sample_and_score(run, prompts, drawn.position), left_out)
    return drawn


def sample_and_score(run: Run, prompts: list[Prompt], at: int) -> Scored:
    """Sample and score G completions per prompt: the groups, seconds of sampling, and the rewards' metrics.

    `at`: the first prompt's place in the stream.

    Rewards that may run outside of this thread score a finished group while others are still sampled.
    """
    groups = [RolloutGroup(prompt.example, prompt.ids, []) for prompt in prompts]
    own = run.world.share(range(len(groups)))
    mine, size = [groups[place] for place in own], run.config.num_generations
    with run.scorer.overlapping(mine, size, run.trainer_state) as pending:

        def score(place: int, rollouts: list[Rollout]) -> None:
            groups[place].rollouts = rollouts
            if run.config.strip_thinking:
                ids, prefix = prompts[place].ids, run.config.completion_prefix
                set_answers(rollouts, ids, run.policy.tokenizer, prefix)
            pending.begin(own.index(place))

        started = time.perf_counter()
        run.world.set_phase("sampling")
        sample(run, prompts, own, score, at)
        if run.sampler.copy:
            set_copy_logprobs(run, run.sampler.copy.model, mine)
        seconds = time.perf_counter() - started
        run.world.set_phase("scoring")
    punish_overlong(groups, run.config.max_new_tokens, run.config.soft_overlong_tokens)
    found = of_all_ranks([groups[place].rollouts for place in own], run.world)
    for group, rollouts in zip(groups, found, strict=True):
        group.rollouts = rollouts
    all_seconds, metrics = zip(*run.world.gather([seconds, pending.metrics]), strict=True)
    return groups, max(all_seconds), together(metrics)


def sample(run: Run, prompts: list[Prompt], own: Sequence[int], on_group: OnGroup, at: int) -> None:
    """Sample G completions of the prompts at the places `own`. Raises TrainingError if logits are NaN."""
    try:
        generate(
            run.sampler.current(),
            [prompt.ids for prompt in prompts],
            run.config.num_generations,
            Sampling.for_training(run.config),
            lambda *progress: run.progress(events.RolloutProgress("rollout", *progress)),
            run.config.completion_prefix,
            run.rollout_limit,
            on_group,
            own,
            run.random,
            lambda place, row: run.session(prompts[place], at, row),
        )
    except BrokenPolicy as error:
        weight = first_broken(flat(run.policy.model.parameters()))
        copied = ", which come from its quantized copy" if run.sampler.copy and not weight else ""
        raise TrainingError(
            error.message + (f"; NaN in the weight {weight}" if weight else copied),
            error.hint,
            trouble="nan-gradient",
        ) from error


def set_copy_logprobs(run: Run, copy: nn.Module, groups: list[RolloutGroup]) -> None:
    """Set the logprobs of the copy that sampled, by a forward of each group whose rows came back from tools.

    Those of sampling depend in their last bits on when the tools answered, so a resumed run could not repeat
    them. The loss weighs the copy's tokens by these logprobs. Raises TrainingError if sampler and forward
    disagree.
    """
    for group in groups:
        if not any(rollout.logprobs_depend_on_time for rollout in group.rollouts):
            continue
        batch = pad([TrainingSequence(group.prompt_ids, rollout, 1.0) for rollout in group.rollouts])
        _, rows = updated_at_once(run.config, len(group.prompt_ids), run.forward_plan.share_prefix)
        logprobs = mx.concatenate([logprobs_by(run, copy, part) for part in batch.in_rows(rows)])
        if not run.sampler_agrees and (found := logprob_mismatch.measure([batch], [logprobs])):
            check_logprobs(run, copy, [batch], found)
        values: list[list[float]] = logprobs.tolist()  # type: ignore[assignment]
        for rollout, row in zip(group.rollouts, values, strict=True):
            rollout.logprobs = row[: len(rollout.token_ids)]


def set_advantages(groups: list[RolloutGroup], config: Config) -> None:
    """Set the advantage of every completion from the rewards (P, G), or from its single ones (P, G, K)."""
    for group, advantages in zip(groups, advantages_of(groups, config), strict=True):
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            rollout.advantage = advantage


def advantages_of(groups: list[RolloutGroup], config: Config) -> list[list[float]]:
    """The advantages (P, G) as configured."""
    if config.decoupled_weights:
        single = [[list(rollout.rewards.values()) for rollout in group.rollouts] for group in groups]
        return decoupled_advantages(single, config.decoupled_weights)
    scale = config.scale_rewards if LOSS_TYPES[config.loss_type].scales_rewards else "none"
    rewards = [[rollout.score for rollout in group.rollouts] for group in groups]  # (P, G)
    return compute_advantages(rewards, scale, config.advantage_estimator)
