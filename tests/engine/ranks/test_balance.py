"""Microbatches dealt to ranks: by hand, and always whole."""

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine.ranks.balance import assign_ranks, checksum, cost
from grpo_cli.engine.update.batch import make_microbatches
from tests.support.random_models import group, rollout


def batches(*lengths: int, rows: int = 2):  # type: ignore[no-untyped-def]
    """A microbatch of one group for each length: a prompt of 3 tokens, `rows` completions."""
    groups = [
        group([place, 1, 2], [rollout([7] * length, 1.0) for _ in range(rows)])
        for place, length in enumerate(lengths)
    ]
    return make_microbatches(groups, LOSS_TYPES["dapo"], 64, 1, False)


def test_the_longest_go_first_to_whom_has_least() -> None:
    made = batches(10, 2, 8, 6)
    assert [cost(batch) for batch in made] == [23, 7, 19, 15]
    dealt = assign_ranks(made, 2)
    # 23 → rank 0; 19 → rank 1; 15 → rank 1 (34); 7 → rank 0 (30)
    assert [batch.rank for batch in dealt] == [0, 0, 1, 1]
    assert all(first is second for first, second in zip(dealt, made, strict=True))


def test_one_rank_has_all() -> None:
    assert [batch.rank for batch in assign_ranks(batches(5, 4), 1)] == [0, 0]


@pytest.mark.parametrize(("ranks", "rows"), [(2, [4, 4]), (3, [3, 3, 2]), (8, [1] * 8), (11, [1] * 8)])
def test_a_single_microbatch_is_cut_by_its_rows(ranks: int, rows: list[int]) -> None:
    (whole,) = batches(5, rows=8)
    dealt = assign_ranks([whole], ranks)
    assert [len(batch.rows) for batch in dealt] == rows
    assert len({batch.rank for batch in dealt}) == len(dealt)
    assert mx.array_equal(mx.concatenate([batch.targets for batch in dealt]), whole.targets)
    assert sum(float(batch.weights.sum()) for batch in dealt) == pytest.approx(float(whole.weights.sum()))


def test_a_checksum_tells_a_single_bit() -> None:
    arrays = {
        "a": mx.arange(12, dtype=mx.float32),
        "b": mx.ones(3, dtype=mx.bfloat16),
        "step": mx.array(7, mx.uint64),
    }
    same = {name: array + 0 for name, array in arrays.items()}
    assert checksum(arrays) == checksum(same)
    for name in arrays:
        bits = {2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[arrays[name].dtype.size]
        flipped = (arrays[name].reshape(-1).view(bits) + mx.array(1, bits)).view(arrays[name].dtype)
        assert checksum({**arrays, name: flipped}) != checksum(arrays), name
