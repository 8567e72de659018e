"""`python -m tests.bench.vocabulary`: the peak memory of an update with a large vocabulary, by completions.

A nanochat of 4 layers, 256 channels and 65,536 words is made on the spot; one prompt of 100 tokens and G
completions of 64. JSON goes to stdout.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import mlx.core as mx
import typer
from mlx_lm.models import nanochat

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.optimizer import Optimizer

VOCABULARY = 65536


def main(
    generations: Annotated[list[int], typer.Option(help="Completions per prompt (G).")] = [8, 16, 32],  # noqa: B006
    new_tokens: Annotated[int, typer.Option(help="Tokens of every completion.")] = 64,
) -> None:
    """Measure forward, backward and optimizer for each G, with slices and without."""
    device.prepare()
    model = nanochat.Model(
        nanochat.ModelArgs(
            model_type="nanochat",
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=2048,
            intermediate_size=1024,
        )
    )
    mx.eval(model.parameters())
    config = Config(max_grad_norm=1.0)
    optimizer = Optimizer(config, model)
    heads = {"slices": find_head(model), "whole": None}
    measured: dict[str, dict[int, Any]] = {name: {} for name in heads}
    for count in generations:
        batch = made(count, new_tokens)
        for name, head in heads.items():
            objective = Objective(config, ForwardPlan(head=head))
            measured[name][count] = best(
                lambda batch=batch, of=objective: update(model, optimizer, batch, of)
            )
    sys.stdout.write(
        json.dumps({**measured, "growth_with_slices": growth(measured["slices"])}, indent=2) + "\n"
    )


def update(model: nanochat.Model, optimizer: Optimizer, batch: Microbatch, objective: Objective) -> None:
    """One whole update."""
    gradients, result = accumulate(model, [batch], objective)
    optimizer.step(model, gradients, result.grad_norm, 1e-6)


def best(work: Callable[[], None]) -> dict[str, float]:
    """Seconds and peak memory in 10⁹ bytes of the fastest of three; the first makes the optimizer's state."""
    seconds = []
    for _ in range(4):
        device.reset_peak_memory()
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return {"seconds": min(seconds[1:]), "peak_memory_gb": device.peak_memory_gb()}


def made(count: int, new_tokens: int) -> Microbatch:
    """One group of random completions with advantages of +1 and −1 in turn."""
    targets = mx.random.randint(0, VOCABULARY, (count, new_tokens))
    advantages = mx.array([[1.0 if row % 2 == 0 else -1.0] for row in range(count)])
    mask = mx.ones((count, new_tokens), dtype=mx.bool_)
    old = mx.full((count, new_tokens), -11.0)
    weights = mx.full((count, 1), 1 / (count * new_tokens))
    return Microbatch(
        prompts=[list(range(1, 101))],
        rows=[0] * count,
        targets=targets,
        loss_mask=mask,
        old_logprobs=old,
        advantages=advantages,
        weights=weights,
    )


def growth(measured: dict[int, Any]) -> float:
    """How much the last peak is above the first."""
    peaks = [value["peak_memory_gb"] for value in measured.values()]
    return peaks[-1] / peaks[0] - 1


if __name__ == "__main__":
    typer.run(main)
