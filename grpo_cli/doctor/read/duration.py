"""A run's duration: its number of steps times the seconds of a logged step, or of one measured now.

    duration = logged_duration(steps) or measured_duration(config, folder)
    total_seconds(config, duration, steps=40)

smoke_test on 2 cores: 32 to 41 seconds were estimated, the run took 29 (1.1 to 1.4 times; completions have 24
tokens on average, the estimate assumes 48). On a busy machine both numbers vary by a factor of 3.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.config.schema import Config
from grpo_cli.doctor.read.run_log import series

if TYPE_CHECKING:
    from grpo_cli.engine.run import Run

FEWEST_LOGGED = 3  # steps that are better evidence than a new measurement
MEASURED_TOKENS = 32
TRIES = 3
MEASURING_SECONDS = (
    20.0  # seconds allowed for measuring a whole step; beyond it one prompt's time is multiplied
)


@dataclass(frozen=True, kw_only=True)
class StepDuration:
    """Seconds of one step of the configuration, and of one evaluation (0: unknown)."""

    rollout: float
    update: float
    other: float
    evaluation: float
    prompts: int  # in the measured step
    basis: str

    @property
    def step(self) -> float:
        """Seconds of a whole step."""
        return self.rollout + self.update + self.other


def total_steps(config: Config, examples: int) -> int:
    """Number of updates in the whole run, as engine/run.py counts them."""
    batches = max(1, config.num_epochs * examples // config.prompts_per_step)
    steps = batches * config.num_iterations
    return min(steps, config.max_steps) if config.max_steps else steps


def evaluations(config: Config, steps: int) -> int:
    """Number of evaluations: before the first step, every `eval_steps`, and after the last step."""
    if not config.eval_steps:
        return 0
    return 1 + steps // config.eval_steps + (steps % config.eval_steps > 0)


def total_seconds(config: Config, duration: StepDuration, steps: int) -> float:
    """Seconds of the whole run."""
    return steps * duration.step + evaluations(config, steps) * duration.evaluation


def logged_duration(
    steps: Sequence[dict[str, Any]], evaluated: Sequence[dict[str, Any]]
) -> StepDuration | None:
    """Duration of a step from a run's log; None if the log has too few steps."""
    seconds = [value for value in series(steps, "step_seconds") if value > 0]
    if len(seconds) < FEWEST_LOGGED:
        return None
    rounds = series(evaluated, "eval_seconds")
    basis = f"{len(seconds)} logged steps of {statistics.median(seconds):.3g} s"
    evaluation = statistics.median(rounds) if rounds else 0.0
    return StepDuration(
        rollout=0.0,
        update=0.0,
        other=statistics.fmean(seconds),
        evaluation=evaluation,
        prompts=0,
        basis=basis,
    )


def measured_duration(config: Config, folder: Path) -> StepDuration:
    """Duration of a step: a small one is run now in this process and scaled to the configuration.

    Only built-in rewards are used, so that no user code runs unasked. Raises what loading the model and
    data raises.
    """
    from grpo_cli.engine.setup import prepare

    tokens = min(MEASURED_TOKENS, config.max_new_tokens)
    small = config.model_copy(
        update={
            "model_name": str(folder),
            "batch_size": 1,
            "gradient_accumulation_steps": 1,
            "max_new_tokens": tokens,
            "steps_per_generation": 1,
            "dynamic_sampling": False,
            "mask_truncated_completions": False,  # short completions are cut off, and must count
            "reward_functions": ["correctness"],
            "reward_weights": [],
            "reward_workers": 0,
            "eval_steps": 0,
        }
    )
    run = prepare(small)
    one_step(run)  # warm-up: the first builds kernels and caches
    measured = quickest(run)
    if measured.seconds * config.prompts_per_step <= MEASURING_SECONDS:
        whole_step = {name: getattr(config, name) for name in ("batch_size", "gradient_accumulation_steps")}
        measured = quickest(replace(run, config=small.model_copy(update=whole_step)))
    return scaled(config, measured)


def quickest(run: "Run") -> "MeasuredStep":
    """The fastest of a few steps: the one least disturbed by other processes."""
    started, steps = time.perf_counter(), [one_step(run)]
    while len(steps) < TRIES and time.perf_counter() - started < MEASURING_SECONDS / 4:
        steps.append(one_step(run))
    return min(steps, key=lambda step: step.seconds)


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """One measured step: seconds, prompts and tokens."""

    rollout: float
    update: float
    prompts: int
    prompt_tokens: int
    completion_tokens: int
    longest: int  # completion, in tokens
    cut_off: int  # tokens in completions cut off by max_new_tokens

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return self.rollout + self.update


def one_step(run: "Run") -> MeasuredStep:
    """Run one step, rollouts and update, on a model that is discarded afterwards."""
    from grpo_cli.engine.dry_run import tiny_step

    drawn, groups, update = tiny_step(run)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    return MeasuredStep(
        rollout=drawn.seconds,
        update=update["update_seconds"],
        prompts=len(groups),
        prompt_tokens=sum(len(group.prompt_ids) for group in groups),
        completion_tokens=sum(lengths),
        longest=max(lengths),
        cut_off=sum(length for length in lengths if length >= run.config.max_new_tokens),
    )


def scaled(config: Config, measured: MeasuredStep) -> StepDuration:
    """The configuration's step: rollout time scales with new tokens and prompts, update time with all tokens.

    Completions that were cut off are assumed to reach the configured maximum length: an upper bound.
    """
    longer = config.max_new_tokens / measured.longest if measured.cut_off else 1.0
    more = config.prompts_per_step / measured.prompts
    read = measured.prompt_tokens + measured.completion_tokens
    update = (read + (longer - 1.0) * measured.cut_off) / read
    rollout = measured.rollout * more * longer
    samples = config.eval_samples or config.prompts_per_step
    rounds = samples / (config.prompts_per_step * config.num_generations)  # rows at once in an evaluation
    longer_there = config.eval_max_new_tokens / config.max_new_tokens if measured.cut_off else 1.0
    basis = (
        f"a step of {measured.prompts} × {config.num_generations} completions measured now: "
        f"{measured.seconds:.3g} s"
    )
    return StepDuration(
        rollout=rollout / config.num_iterations,
        update=measured.update * more * update,
        other=0.0,
        evaluation=rollout * rounds * longer_there,
        prompts=measured.prompts,
        basis=basis,
    )
