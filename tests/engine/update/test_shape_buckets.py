"""Microbatches in buckets: few shapes, and the same loss, gradient and numbers."""

import random

import mlx.core as mx
import pytest

from grpo_cli.engine.update.shape_buckets import Most, pad_to_bucket, rounded_up
from tests.support.microbatches import microbatch

MOST = Most(completion=512, prompt=255, rows=64)


def test_sizes_are_rounded_up_in_steps_of_a_quarter() -> None:
    sizes = {1: 32, 32: 32, 33: 64, 128: 128, 129: 160, 256: 256, 257: 320, 330: 384, 512: 512, 513: 640}
    assert {size: rounded_up(size, 32, 10**6) for size in sizes} == sizes
    rows = {1: 4, 4: 4, 5: 8, 16: 16, 17: 20, 32: 32, 33: 40, 64: 64}
    assert {size: rounded_up(size, 4, 100) for size in rows} == rows


def test_nothing_is_rounded_beyond_the_most() -> None:
    assert rounded_up(97, 32, 100) == 100
    assert rounded_up(100, 32, 100) == 100
    assert rounded_up(101, 32, 100) == 101  # never less than there is


def test_padding_by_hand() -> None:
    """Three rows of two prompts: 4 rows of 32 columns, and 2 and 1 prompt tokens at the end of 32."""
    batch = microbatch([[7, 8, 9], [5, 6]], [0, 0, 1], [3, 2, 1])
    padded = pad_to_bucket(batch, MOST)
    assert padded.prompt_ids.tolist() == [[0] * 30 + [7, 8], [0] * 31 + [5]]
    assert padded.prompt_padding.tolist() == [30, 31]
    assert padded.rows.tolist() == [0, 0, 1, 0]
    assert padded.loss_mask.sum(axis=-1).tolist() == [3, 2, 1, 0]
    assert padded.inputs[:, :3].tolist() == [*batch.inputs.tolist(), [0, 0, 0]]
    assert padded.weights.tolist() == [*batch.weights.tolist(), [0.0]]
    assert padded.targets[:3, :3].tolist() == batch.targets.tolist()
    assert mx.abs(padded.targets[:, 3:]).sum().item() == 0
    assert padded.bucket == (2, 32, 4, 32, tuple(sorted(padded.arrays)), False)
    assert "ref_logprobs" not in padded.arrays


def test_prompts_of_one_token_have_nothing_to_read() -> None:
    padded = pad_to_bucket(microbatch([[7]], [0], [1]), Most(8, 0, 1))
    assert padded.prompt_ids.shape == (1, 0)
    assert padded.targets.shape == (1, 8)


def test_many_microbatches_have_few_shapes() -> None:
    """Lengths to 512: 12 widths; 0 to 255 prompt tokens: 9; rows of one group of 1 to 8: 4 or 8."""
    random.seed(0)
    shapes, buckets = set(), set()
    for _ in range(200):
        rows = random.randint(1, 8)
        lengths = [random.randint(1, 512) for _ in range(rows)]
        prompt = [1] * random.randint(1, 256)
        batch = microbatch([prompt], [0] * rows, lengths)
        shapes.add((len(prompt), *batch.targets.shape))
        buckets.add(pad_to_bucket(batch, MOST).bucket)
    assert len(shapes) > 190
    assert len(buckets) <= 12 * 9 * 2
    assert len({bucket.width for bucket in buckets}) <= 12
    assert len({bucket.prompt_length for bucket in buckets}) <= 9
    assert {bucket.rows for bucket in buckets} == {4, 8}


@pytest.mark.parametrize("size", range(1, 2000, 7))
def test_no_bucket_is_a_quarter_too_large(size: int) -> None:
    assert size <= rounded_up(size, 32, 10**6) < max(size * 1.25, size + 32)
