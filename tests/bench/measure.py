"""What the benchmark measures. Every part does the same work on the same tokens as its yardstick.

The end tokens are taken away, so that every completion has exactly `new_tokens` tokens, here and in
`mlx_lm.batch_generate`; and advantages are +1 and −1 in turn, so that no sequence drops out of the
update because its group scored alike.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import batch_generate
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.run import Run
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.models.caches import arrays_of, has_only_keys
from grpo_cli.models.tied import is_tied
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.models.tree import flat
from grpo_cli.types import RolloutGroup
from tests.bench.counters import LONG, SHORT, decoding_counts
from tests.support.steps import scored_groups


@dataclass(frozen=True)
class Measurement:
    """One part: the median of its repeats, the tokens of one of them, and MLX's peak in 10⁹ bytes."""

    seconds: float
    tokens: int
    peak_memory_gb: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


class Endless:
    """A tokenizer without end tokens, as our engine and mlx-lm ask for them."""

    eos_ids: frozenset[int] = frozenset()
    eos_token_ids: frozenset[int] = frozenset()

    def __init__(self, wrapped: Tokenizer) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def timed(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds and peak memory (10⁹ bytes) of each part; a part evaluates what it computes.

    Everything runs once to warm up. Then the parts take turns, so that other work on the machine
    falls on a part and its yardstick alike.
    """
    for work in parts.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    peaks = dict.fromkeys(parts, 0.0)
    for _ in range(repeats):
        for name, work in parts.items():
            device.reset_peak_memory()
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
            peaks[name] = max(peaks[name], device.peak_memory_gb())
    return {name: (statistics.median(seconds[name]), peaks[name]) for name in parts}


def run(config: Config, repeats: int, rollouts_only: bool = False) -> dict[str, Any]:
    """Measure all parts, or the first two; the result is ready for JSON."""
    run = prepare(config)
    run.policy.tokenizer = Endless(run.policy.tokenizer)
    mx.random.seed(config.seed)
    groups = balanced(scored_groups(run))
    batches = make_batches(run, groups)
    sampled = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
    whole = [whole_sequences(batch) for batch in batches]
    trained = sum(ids[:, :-1].size for ids, _ in whole)
    model = run.policy.model
    work: dict[str, tuple[int, Callable[[], Any]]] = {
        "rollout": (sampled, lambda: sample(run, groups)),
        "batch_generate": (sampled, lambda: sample_with_mlx_lm(run, groups)),
        "update": (trained, lambda: update_policy(run, 1, batches)),
        "forward_backward": (trained, lambda: bare_gradients(model, whole)),
        "step": (sampled, lambda: step(run)),
    }
    if rollouts_only:
        work = {name: work[name] for name in ("rollout", "batch_generate")}
    times = timed({name: function for name, (_, function) in work.items()}, repeats)
    parts = {name: Measurement(times[name][0], tokens, times[name][1]) for name, (tokens, _) in work.items()}
    return {
        **facts(run, groups, repeats),
        **{name: part.as_dict() for name, part in parts.items()},
        "rollout_speedup": parts["batch_generate"].seconds / parts["rollout"].seconds,
        **update_overhead(parts),
        "decoding": decoding(run, groups),
        "peak_memory_gb": max(part.peak_memory_gb for part in parts.values()),
    }


def update_overhead(parts: dict[str, Measurement]) -> dict[str, float]:
    """The update beside a bare forward and backward, where they were measured."""
    if "update" not in parts:
        return {}
    return {"update_overhead": parts["update"].seconds / parts["forward_backward"].seconds}


def facts(run: Run, groups: list[RolloutGroup], repeats: int) -> dict[str, Any]:
    """What was measured, and on what."""
    config = run.config
    return {
        **machine(run, repeats),
        "dataset": config.dataset,
        "prompts": len(groups),
        "generations": config.num_generations,
        "new_tokens": config.max_new_tokens,
        "prompt_tokens": [len(group.prompt_ids) for group in groups],
    }


def machine(run: Run, repeats: int) -> dict[str, Any]:
    """On what it was measured, with which model, how often."""
    return {
        "device": asdict(device.prepare()),
        "versions": {name: metadata.version(name) for name in ("grpo-cli", "mlx", "mlx-lm") if has(name)},
        "model": run.config.model_name,
        "parameters": run.policy.parameter_count,
        "repeats": repeats,
    }


def has(name: str) -> bool:
    """Whether a distribution is installed; the project itself need not be."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def balanced(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    """The groups with advantages of +1 and −1 in turn."""
    for group in groups:
        for index, rollout in enumerate(group.rollouts):
            rollout.advantage = 1.0 if index % 2 == 0 else -1.0
    return groups


# --- the parts -----------------------------------------------------------------------------------


def sample(run: Run, groups: list[RolloutGroup], tokens: int = 0) -> None:
    """Our rollouts of the groups' prompts, logprobs and entropies included. `tokens`: not as configured."""
    prompts = [group.prompt_ids for group in groups]
    sampling = Sampling.for_training(run.config)
    sampling = replace(sampling, max_new_tokens=tokens or sampling.max_new_tokens)
    generate(run.policy, prompts, run.config.num_generations, sampling)


def sample_with_mlx_lm(run: Run, groups: list[RolloutGroup], tokens: int = 0) -> None:
    """mlx-lm's completions of the same prompts, all in one batch, without logprobs."""
    config = run.config
    prompts = [list(group.prompt_ids) for group in groups for _ in range(config.num_generations)]
    batch_generate(
        run.policy.model,
        run.policy.tokenizer,
        prompts,
        max_tokens=tokens or config.max_new_tokens,
        sampler=make_sampler(temp=config.temperature),
        completion_batch_size=len(prompts),
        prefill_batch_size=len(prompts),
    )


def decoding(run: Run, groups: list[RolloutGroup]) -> dict[str, Any]:
    """Counts of one decoding step, of ours and of mlx-lm's, and the bytes that it cannot do without."""
    return {
        "rows": len(groups) * run.config.num_generations,
        "least_bytes": least_bytes(run, groups),
        "rollout": decoding_counts(lambda tokens: sample(run, groups, tokens)).as_dict(),
        "batch_generate": decoding_counts(lambda tokens: sample_with_mlx_lm(run, groups, tokens)).as_dict(),
    }


def least_bytes(run: Run, groups: list[RolloutGroup]) -> int:
    """Bytes of the weights and of the KV cache at the mean length counted, each prompt once.

    Without an embedding's table where it is not the output matrix too, and the cache of plain keys only.
    """
    model = run.policy.model
    tied = is_tied(run.policy.config)
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    arrays = flat(model.parameters())
    weights = sum(array.nbytes for name, array in arrays.items() if tied or name not in tables)
    if not has_only_keys(model):
        return weights
    cache: list[Any] = make_prompt_cache(model)
    mx.eval(model(mx.array([groups[0].prompt_ids]), cache=cache))
    allocated = arrays_of(cache)
    per_token = sum(array.nbytes for array in allocated) // allocated[0].shape[2]
    own = len(groups) * run.config.num_generations * (SHORT + LONG) // 2
    return weights + per_token * (own + sum(len(group.prompt_ids) for group in groups))


def whole_sequences(batch: Microbatch) -> tuple[mx.array, int]:
    """Prompt and completion of every row as one array (B, T), and the width S of the completions."""
    prompts = [batch.prompts[row] for row in batch.rows]
    longest = max(len(prompt) for prompt in prompts)
    padded = mx.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    return mx.concatenate([padded, batch.targets], axis=1), batch.targets.shape[1]


def bare_gradients(model: nn.Module, whole: list[tuple[mx.array, int]]) -> None:
    """Forward and backward of the mean cross entropy on the update's own tokens, and nothing else.

    Every row reads its own prompt, as trainers do that do not share it.
    """
    loss_and_grad = nn.value_and_grad(model, cross_entropy)
    for ids, width in whole:
        mx.eval(loss_and_grad(model, ids, width))


def cross_entropy(model: nn.Module, ids: mx.array, width: int) -> mx.array:
    """Mean −log π of the last `width` tokens of each row of ids (B, T)."""
    logits = model(ids[:, :-1])[:, -width:]  # (B, S, V)
    return nn.losses.cross_entropy(logits, ids[:, -width:], reduction="mean")


def step(run: Run) -> None:
    """One whole training step: rollouts, rewards, advantages, batch, update."""
    groups = balanced(scored_groups(run))
    update_policy(run, 1, make_batches(run, groups))
