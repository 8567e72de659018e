"""Microbatches padded to a small set of shapes, since `mx.compile` compiles once per shape.

    padded = pad_to_bucket(batch, Most(completion=512, prompt=511, rows=8))
    padded.targets.shape                                 # (8, 384), of 7 rows of 330 tokens

Columns and rows are rounded up to steps of a quarter of the power of two below them: 32, 64, 96, 128, 160, …,
256, 320, 384, 448, 512, 640. So there are four buckets per doubling, and above the smallest step at most a
fifth of a bucket is padding.

Padding changes no result. Added rows continue the first prompt with a loss mask of false and a weight of 0.
Added prompts repeat the first one, and no row continues them. Added columns (left of a prompt, right of a
completion) are masked.
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from grpo_cli.engine.rollout.prompt_cache import PaddedPrompts
from grpo_cli.engine.update.batch import Microbatch

COLUMNS = 32  # the smallest step of a completion's or prompt's length
ROWS = 4
BY_ROW = ("advantages", "weights", "entropy_coeffs")  # (B, 1); the last one may be None
BY_TOKEN = ("targets", "loss_mask", "old_logprobs")  # (B, S)
OPTIONAL = ("ref_logprobs", "policy_mask", "sampler_logprobs")  # (B, S), or None


class Most(NamedTuple):
    """Upper limits of padding: the sizes that memory was estimated for."""

    completion: int
    prompt: int  # tokens, without the last one
    rows: int


class Bucket(NamedTuple):
    """The shape that a compiled function is made for: P prompts of T tokens, B rows of S tokens."""

    prompts: int
    prompt_length: int
    rows: int
    width: int
    names: tuple[str, ...]  # names of the arrays that are not None
    old_is_current: bool


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """The fields of a Microbatch that the loss reads, as arrays only."""

    prompt_ids: mx.array  # (P, T) int32, all but the last token of the distinct prompts
    prompt_padding: mx.array  # (P,) int32, columns on the left
    rows: mx.array  # (B,) int32, index of each row's prompt
    inputs: mx.array  # (B, S) int32, the token before each target
    targets: mx.array  # (B, S) int32
    loss_mask: mx.array  # (B, S) bool
    old_logprobs: mx.array  # (B, S)
    advantages: mx.array  # (B, 1)
    weights: mx.array  # (B, 1)
    ref_logprobs: mx.array | None = None  # (B, S)
    policy_mask: mx.array | None = None  # (B, S) bool
    sampler_logprobs: mx.array | None = None  # (B, S)
    entropy_coeffs: mx.array | None = None  # (B, 1)
    old_is_current: bool = False

    @property
    def prompts(self) -> PaddedPrompts:
        """The distinct prompts, left-padded."""
        return PaddedPrompts(self.prompt_ids, self.prompt_padding)

    @property
    def arrays(self) -> dict[str, mx.array]:
        """The arrays that are not None, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, mx.array)}

    @property
    def bucket(self) -> Bucket:
        """The bucket of these shapes."""
        (prompts, length), (rows, width) = self.prompt_ids.shape, self.targets.shape
        return Bucket(prompts, length, rows, width, tuple(sorted(self.arrays)), self.old_is_current)


def rounded_up(size: int, step: int, most: int) -> int:
    """The size rounded up to its bucket: at least `step`, and at most `most` unless `size` is larger."""
    quarter = 1 << max(0, (size - 1).bit_length() - 3)  # a quarter of the largest power of two below the size
    unit = max(step, quarter)
    return max(size, min(-(-size // unit) * unit, most))


def pad_to_bucket(batch: Microbatch, most: Most) -> PaddedBatch:
    """The microbatch padded to the shape of its bucket."""
    rows, width = batch.targets.shape
    more_rows = rounded_up(rows, ROWS, most.rows) - rows
    more_columns = rounded_up(width, COLUMNS, most.completion) - width
    found = {name: getattr(batch, name) for name in (*BY_ROW, *BY_TOKEN, *OPTIONAL)}
    arrays = {
        name: mx.pad(array, [(0, more_rows), (0, 0 if name in BY_ROW else more_columns)])
        for name, array in {**found, "inputs": batch.inputs}.items()
        if array is not None
    }
    arrays["rows"] = mx.array(batch.rows + [0] * more_rows, dtype=mx.int32)
    arrays["prompt_ids"], arrays["prompt_padding"] = padded_prompts(batch.prompts, most)
    return PaddedBatch(**arrays, old_is_current=batch.old_is_current)


def padded_prompts(prompts: list[list[int]], most: Most) -> tuple[mx.array, mx.array]:
    """All but the last token of every prompt, left-padded, (P, T), and the columns of padding, (P,)."""
    number = rounded_up(len(prompts), 1, most.rows)
    length = rounded_up(max(len(prompt) for prompt in prompts) - 1, COLUMNS, most.prompt)
    all_prompts = prompts + [prompts[0]] * (number - len(prompts))
    padding = [length - (len(prompt) - 1) for prompt in all_prompts]
    ids = [[0] * pad + prompt[:-1] for pad, prompt in zip(padding, all_prompts, strict=True)]
    return mx.array(ids, dtype=mx.int32).reshape(number, length), mx.array(padding, dtype=mx.int32)
