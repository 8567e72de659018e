"""Microbatches of random numbers."""

from typing import Any

import mlx.core as mx

from grpo_cli.engine.update.batch import Microbatch


def microbatch(prompts: list[list[int]], rows: list[int], lengths: list[int], **more: Any) -> Microbatch:
    """Random targets, old logprobs, advantages and weights; rows of the given lengths."""
    width = max(lengths)
    return Microbatch(
        prompts=prompts,
        rows=rows,
        targets=mx.random.randint(0, 48, (len(rows), width)).astype(mx.int32),
        loss_mask=mx.arange(width)[None] < mx.array(lengths)[:, None],
        old_logprobs=mx.random.uniform(-5.0, -2.0, (len(rows), width)),
        advantages=mx.random.normal((len(rows), 1)),
        weights=mx.full((len(rows), 1), 1.0 / sum(lengths)),
        **more,
    )
