"""`python -m tests.bench.vocabulary`: the peak memory of an update with a large vocabulary, by completions.

A nanochat of 4 layers, 256 channels and 65,536 words is made on the spot; one prompt of 100 tokens and G
completions of 64. JSON goes to stdout.
"""

import json
import sys
from typing import Annotated

import mlx.core as mx
import typer
from mlx_lm.models import nanochat

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine.batch import Microbatch
from grpo_cli.engine.head import find_head
from grpo_cli.engine.optimizer import Optimizer
from grpo_cli.engine.update import Objective, accumulate


def main(
    generations: Annotated[list[int], typer.Option(help="Completions per prompt (G).")] = [8, 16, 32],  # noqa: B006
    new_tokens: Annotated[int, typer.Option(help="Tokens of every completion.")] = 64,
) -> None:
    """Measure forward, backward and optimizer for each G."""
    device.prepare()
    model = nanochat.Model(
        nanochat.ModelArgs(
            model_type="nanochat",
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=65536,
            max_position_embeddings=2048,
            intermediate_size=1024,
        )
    )
    mx.eval(model.parameters())
    config = Config(max_grad_norm=1.0)
    optimizer = Optimizer(config, model)
    objective = Objective.of(config, head=find_head(model))
    peaks = {}
    for count in generations:
        for _ in range(2):  # the first one makes the optimizer's state
            batch = made(count, new_tokens)
            device.reset_peak_memory()
            gradients, result = accumulate(model, [batch], objective)
            optimizer.step(model, gradients, result.grad_norm, 1e-6)
            del gradients
        peaks[count] = device.peak_memory_gb()
    sys.stdout.write(json.dumps({"peak_memory_gb": peaks, "growth": growth(peaks)}, indent=2) + "\n")


def made(count: int, new_tokens: int) -> Microbatch:
    """One group of random completions with advantages of +1 and −1 in turn."""
    targets = mx.random.randint(0, 65536, (count, new_tokens))
    advantages = mx.array([[1.0 if row % 2 == 0 else -1.0] for row in range(count)])
    mask = mx.ones((count, new_tokens), dtype=mx.bool_)
    old = mx.full((count, new_tokens), -11.0)
    weights = mx.full((count, 1), 1 / (count * new_tokens))
    return Microbatch([list(range(1, 101))], [0] * count, targets, mask, old, advantages, weights)


def growth(peaks: dict[int, float]) -> float:
    """How much the last peak is above the first."""
    first, *_, last = peaks.values()
    return last / first - 1


if __name__ == "__main__":
    typer.run(main)
