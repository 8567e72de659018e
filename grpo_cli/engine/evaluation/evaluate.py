"""Evaluate a policy on held-out examples: greedy, batched, with the same items each time.

    evaluation = evaluate(policy, prompts, Sampling.for_evaluation(config), rows=128)
    evaluation.accuracy, evaluation.format_rate

An item is right if its final answer, within `<answer>…</answer>` or not, is that of the example
(rewards/answers.py).
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.config.local_model import check_name
from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine.judge import show_judging, with_judge
from grpo_cli.engine.ranks.same_setup import check_same_setup, loaded, settings
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout.chat_template import set_up_template
from grpo_cli.engine.rollout.generate import Progress, generate, no_progress, of_all_ranks
from grpo_cli.engine.rollout.prompts import Prompt, evaluation_prompts
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.rollout.thinking import set_answers
from grpo_cli.engine.run import scorer_of
from grpo_cli.engine.run_dir.inputs import fingerprint
from grpo_cli.engine.update.forward_probe import check_unread, sampling_plan
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.table import load_environments
from grpo_cli.environments.task import load_task
from grpo_cli.environments.tooling import SessionMaker, no_environment
from grpo_cli.models.load import Policy, load_policy
from grpo_cli.rewards.answers import is_right
from grpo_cli.rewards.builtin import is_strict
from grpo_cli.rewards.score import Named, Scorer
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.rewards.table import load_rewards
from grpo_cli.types import Rollout, RolloutGroup, StopReason


def unheard(notice: str) -> None:
    """No-op receiver of notices."""


@dataclass
class Evaluation:
    """The completions of every item, and the scores computed from them."""

    groups: list[RolloutGroup]  # one per item; one completion each, or several for pass@k
    seconds: float
    measure: str = ""  # name of the reward that decides what is right; empty: the answer decides

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions of all items, in order."""
        return [rollout for group in self.groups for rollout in group.rollouts]

    @property
    def correct(self) -> list[list[bool]]:
        """For each item and completion, True if it is right."""
        return [
            [self.is_right(rollout, group.example.answer) for rollout in group.rollouts]
            for group in self.groups
        ]

    def is_right(self, rollout: Rollout, gold: str) -> bool:
        """True if the reward `measure` is above 0; without one, if the answer equals `gold`."""
        if not self.measure:
            return is_right(rollout.final_text, gold)
        return (rollout.rewards.get(self.measure) or 0.0) > 0  # None, it does not apply: not right

    @property
    def accuracy(self) -> float:
        """Share of completions that are right."""
        return statistics.fmean(right for item in self.correct for right in item)

    @property
    def format_rate(self) -> float:
        """Share of completions that are `<reasoning>…</reasoning><answer>…</answer>` and nothing else."""
        return statistics.fmean(is_strict(rollout.seen_text) for rollout in self.rollouts)

    @property
    def length_mean(self) -> float:
        """Mean completion length in tokens."""
        return statistics.fmean(rollout.length for rollout in self.rollouts)

    @property
    def truncated_fraction(self) -> float:
        """Share of completions cut off at max_new_tokens."""
        return statistics.fmean(rollout.stop_reason is StopReason.LENGTH for rollout in self.rollouts)

    @property
    def unscored_fraction(self) -> float:
        """Share of completions that the reward `measure` does not apply to; they count as not right."""
        if not self.measure:
            return 0.0
        return statistics.fmean(rollout.rewards[self.measure] is None for rollout in self.rollouts)

    def line(self, step: int) -> dict[str, Any]:
        """The evaluation's line in training_log.jsonl."""
        return {
            "step": step,
            "eval_accuracy": self.accuracy,
            "eval_samples": len(self.groups),
            "eval_right": "".join(str(int(all(item))) for item in self.correct),  # to compare item by item
            "eval_format": self.format_rate,
            "eval_length_mean": self.length_mean,
            "eval_truncated_fraction": self.truncated_fraction,
            "eval_seconds": self.seconds,
            **({"eval_unscored_fraction": self.unscored_fraction} if self.unscored_fraction else {}),
        }


def evaluate(
    policy: Policy,
    prompts: list[Prompt],
    sampling: Sampling,
    rows: int,
    num_generations: int = 1,
    prefix: str = "",
    on_progress: Progress = no_progress,
    world: World = ALONE,
    make_session: SessionMaker = no_environment,
    strip_thinking: bool = False,
    limit: RowLimit | None = None,
) -> Evaluation:
    """Complete every prompt `num_generations` times, about `rows` sequences at once.

    `make_session`: makes the environment of each completion. `strip_thinking`: what follows the thinking
    counts as the answer. `limit`: remembers how many rows the device can do at once. Each rank of a `world`
    completes its share and receives the whole evaluation.
    """
    started = time.perf_counter()
    limit = limit or RowLimit()
    limit.rows = min(rows, limit.rows or rows)
    # Greedy completions do not depend on the items of one call, so a single call samples all.
    # Random numbers do depend on them, so with temperature every call has a fixed set of items.
    size = len(prompts) if sampling.temperature == 0 else max(1, rows // num_generations)
    total, finished, tokens = len(prompts) * num_generations, 0, 0
    groups: list[RolloutGroup] = []
    # Prompts of similar length together need little padding; the result is in the original order.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    for start in range(0, len(order), size):
        chunk = [prompts[index] for index in order[start : start + size]]
        offset, sampled = finished, tokens
        sets = generate(
            policy,
            [prompt.ids for prompt in chunk],
            num_generations,
            sampling,
            lambda done, _, count, offset=offset, sampled=sampled: on_progress(  # type: ignore[misc]
                offset + done, total, sampled + count
            ),
            prefix,
            limit,
            own=world.share(range(len(chunk))),
            sessions=lambda place, _, chunk=chunk: make_session(chunk[place].example),  # type: ignore[misc]
        )
        sets = of_all_ranks(sets, world)
        groups += [RolloutGroup(p.example, p.ids, rollouts) for p, rollouts in zip(chunk, sets, strict=True)]
        for group in groups[-len(chunk) :] if strip_thinking else ():
            set_answers(group.rollouts, group.prompt_ids, policy.tokenizer, prefix)
        finished += len(chunk) * num_generations
        tokens += sum(rollout.length for rollouts in sets for rollout in rollouts)
    by_index = dict(zip(order, groups, strict=True))
    return Evaluation([by_index[index] for index in range(len(prompts))], time.perf_counter() - started)


def measure_by_reward(evaluation: Evaluation, config: Config, rewards: Sequence[Named]) -> None:
    """Score an evaluation by `eval_reward`, which then decides what is right. `rewards`: the run's."""
    spec = config.eval_reward
    if not spec:
        return
    known = dict(zip(map(RewardSpec.parse, config.reward_functions), rewards, strict=True))
    name, function = known.get(RewardSpec.parse(spec)) or load_rewards([spec])[0]
    options = (config.reward_timeout, config.reward_workers, [spec])
    with Scorer([(name, function)], [1.0], *options) as scorer:
        scorer.score(evaluation.groups)
    evaluation.measure = name


def completion_lines(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Every completion as plain data, one JSON line each in `grpo eval --output`."""
    for item, (group, correct) in enumerate(zip(evaluation.groups, evaluation.correct, strict=True)):
        for rollout, right in zip(group.rollouts, correct, strict=True):
            line = {
                "item": item,
                "prompt": group.example.messages,
                "answer": group.example.answer,
                "completion": rollout.text,
                "correct": right,
                "rewards": rollout.rewards,
                "stop_reason": rollout.stop_reason,
                "tokens": len(rollout.token_ids),
            }
            if rollout.messages:  # of a completion with several turns
                line["messages"] = rollout.messages
            yield line


def evaluate_model(
    name: str,
    config: Config,
    sampling: Sampling,
    num_generations: int = 1,
    on_progress: Progress = no_progress,
    world: World = ALONE,
    told: Callable[[str], None] = unheard,
) -> Evaluation:
    """Evaluate a model on the configuration's held-out examples, and score it by the configured rewards.

    `told`: receives notices about the model's chat template. Each rank of a `world` completes its share; rank
    0 scores. Sampling is seeded by the configuration, so evaluations are reproducible.
    """
    device.prepare()
    check_name(name)
    check_unread(name)
    if config.has_judge:
        check_name(config.judge)
        check_unread(config.judge)
    rewards = load_rewards(config.reward_functions)
    environments = load_environments(config.environments)
    examples = load_task(config, config.eval_split, environments)
    check_same_setup(world, settings(config))
    policy = load_policy(name, config.dtype)
    policy.plan = sampling_plan(policy.model)
    for notice in set_up_template(policy.tokenizer, config, examples):
        told(notice)
    tooling = tooling_of(config, policy.tokenizer, environments)
    prompts = evaluation_prompts(examples, policy, config, tooling)
    if world.size > 1:
        check_same_setup(
            world, loaded(policy.path, None, fingerprint([prompt.example for prompt in prompts]))
        )
    mx.random.seed(config.seed)
    rows = config.prompts_per_step * config.num_generations
    evaluation = evaluate(
        policy,
        prompts,
        sampling,
        rows,
        num_generations,
        config.completion_prefix,
        on_progress,
        world,
        tooling.make_session,
        config.strip_thinking,
    )
    if world.is_first:
        rewards = with_judge(rewards, config)
        show_judging(rewards, on_progress)
        measure_by_reward(evaluation, config, rewards)
        measured = [rollout.rewards for rollout in evaluation.rollouts]
        with scorer_of(config, rewards) as scorer:
            scorer.score(evaluation.groups)
        for rollout, by_measure in zip(evaluation.rollouts, measured, strict=True):
            rollout.rewards = {**by_measure, **rollout.rewards}
    return evaluation
