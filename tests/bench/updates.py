"""The update beside what no update can do without: a bare forward and backward of the same tokens.

    python -m tests.bench --updates-only --model ./SmolLM2

For each case, a prompt and its completions of random tokens, four things take turns:

    update              the run's: gradient, its norm, clipping, the optimizer's step
    gradient            the same without the optimizer
    prefix_shared       written out below: the prompt read once for all completions, cross entropy
    whole_sequences     as most trainers do: every completion with its own prompt, cross entropy

Goals: the gradient takes at most 1.1 × prefix_shared, and at a prompt of 200 tokens 0.45 × whole_sequences.
"""

import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from grpo_cli.config.schema import Config
from grpo_cli.engine.run import Run
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.bench.measure import Measurement, cross_entropy, machine, timed, whole_sequences

PROMPTS = (83, 200)  # tokens: what GSM8K's have, and one at which sharing it matters
RATIOS = {  # name → (what is timed, its yardstick)
    "update_over_prefix_shared": ("update", "prefix_shared"),
    "gradient_over_prefix_shared": ("gradient", "prefix_shared"),
    "gradient_over_whole_sequences": ("gradient", "whole_sequences"),
}


def run(config: Config, repeats: int) -> dict[str, Any]:
    """Every case, ready for JSON."""
    run = prepare(config)
    return {**machine(run, repeats), "updates": cases(run, repeats)}


def cases(run: Run, repeats: int) -> list[dict[str, Any]]:
    """The configured G and completion length, at each of the prompts' lengths."""
    return [case(run, length, repeats) for length in PROMPTS]


def case(run: Run, prompt_tokens: int, repeats: int) -> dict[str, Any]:
    """One prompt of so many tokens, with all that is computed on it."""
    config, model = run.config, run.policy.model
    (batch,) = make_batches(run, [random_group(config, prompt_tokens, run.policy.config["vocab_size"])])
    objective = run.objective
    work: dict[str, Callable[[], Any]] = {
        "update": lambda: update_policy(run, 1, [batch]),
        "gradient": lambda: accumulate(model, [batch], objective),
        "prefix_shared": lambda: mx.eval(prefix_shared(model, batch)),
        "whole_sequences": lambda: mx.eval(whole(model, batch)),
    }
    work["update"]()  # the optimizer's state comes into being, which rests from then on
    mx.clear_cache()
    resting = mx.get_active_memory() / 1e9
    times = timed(work, repeats)
    parts = {name: Measurement(seconds, batch.token_count, peak) for name, (seconds, peak) in times.items()}
    return {
        "prompt_tokens": prompt_tokens,
        "generations": config.num_generations,
        "new_tokens": config.max_new_tokens,
        "resting_memory_gb": resting,
        **{name: part.as_dict() for name, part in parts.items()},
        **{name: parts[a].seconds / parts[b].seconds for name, (a, b) in RATIOS.items()},
    }


def random_group(config: Config, prompt_tokens: int, vocabulary: int) -> RolloutGroup:
    """A prompt and its completions, all of full length, with advantages of +1 and −1 in turn."""
    dice, length = random.Random(0), config.max_new_tokens

    def tokens(count: int) -> list[int]:
        return [dice.randrange(vocabulary) for _ in range(count)]

    rollouts = [
        Rollout(
            token_ids=tokens(length),
            logprobs=[-10.0] * length,
            entropies=[0.0] * length,
            stop_reason=StopReason.LENGTH,
            text="",
            advantage=advantage,
        )
        for advantage in alternating(config.num_generations)
    ]
    return RolloutGroup(Example(messages=[], answer=""), tokens(prompt_tokens), rollouts)


def alternating(count: int) -> list[float]:
    """+1 and −1 in turn."""
    return [1.0 if index % 2 == 0 else -1.0 for index in range(count)]


# --- the yardsticks, without the engine ---------------------------------------------------------------


def prefix_shared(model: nn.Module, batch: Microbatch) -> Any:
    """Loss and gradients of a batch of one prompt, which is read once. For models with plain KV caches."""
    prompt = mx.array([batch.prompts[0][:-1]])  # (1, P − 1)
    return nn.value_and_grad(model, prefix_shared_loss)(model, prompt, batch.inputs, batch.targets)


def prefix_shared_loss(model: nn.Module, prompt: mx.array, inputs: mx.array, targets: mx.array) -> mx.array:
    """Mean −log π of targets (G, S), the tokens after inputs (G, S), all of which follow the prompt."""
    cache: list[Any] = make_prompt_cache(model)
    model(prompt, cache=cache)
    for layer in cache:
        layer.keys = mx.repeat(layer.keys[:, :, : layer.offset], len(targets), axis=0)
        layer.values = mx.repeat(layer.values[:, :, : layer.offset], len(targets), axis=0)
    return nn.losses.cross_entropy(model(inputs, cache=cache), targets, reduction="mean")


def whole(model: nn.Module, batch: Microbatch) -> Any:
    """The same from one plain forward over prompts and completions."""
    ids, width = whole_sequences(batch)
    return nn.value_and_grad(model, cross_entropy)(model, ids, width)
