"""Prompt caches by kind: rows kept, joined and copied, windows and states."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
)

from grpo_cli.models import caches
from grpo_cli.models.caches import NoBatchForm, WindowCache, arrays_of, batch_form, copied, keep_rows


def keys_of(rows: int, length: int, first: float = 0.0) -> mx.array:
    """Keys that tell their row: (B, 1, T, 2)."""
    return mx.broadcast_to(mx.arange(rows).reshape(rows, 1, 1, 1) + first, (rows, 1, length, 2))


def filled(kind: Any, rows: int = 3, length: int = 4) -> Any:
    """A cache of the model's own kind that holds `length` tokens of each row."""
    if kind is ArraysCache:
        layer: Any = ArraysCache(2)
        layer[0], layer[1] = keys_of(rows, 3), keys_of(rows, 1, first=10.0)
        return layer
    if kind is CacheList:
        return CacheList(filled(ArraysCache, rows), filled(KVCache, rows, length))
    layer = kind() if kind is KVCache else kind(8)
    layer.update_and_fetch(keys_of(rows, length), keys_of(rows, length, first=5.0))
    return layer


def rows_of(layer: Any) -> list[list[float]]:
    """The first number of every row in each array of a cache."""
    return [array[:, 0].reshape(len(array), -1)[:, 0].tolist() for array in arrays_of([layer])]


KINDS = [KVCache, RotatingKVCache, ArraysCache, ChunkedKVCache, CacheList]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_kept_and_repeated_and_the_original_stays(kind: Any) -> None:
    layer = filled(kind)
    before = rows_of(layer)
    twin = copied(layer)
    keep_rows(twin, mx.array([2, 0, 0]))
    assert rows_of(layer) == before
    assert rows_of(twin) == [[row[2], row[0], row[0]] for row in before]


def test_each_kind_has_its_batch_form() -> None:
    own = [KVCache(), RotatingKVCache(8), ArraysCache(2), CacheList(ArraysCache(1), KVCache())]
    plain = batch_form(own, [0, 2])
    assert [type(layer) for layer in plain] == [BatchKVCache, BatchRotatingKVCache, ArraysCache, CacheList]
    assert [type(layer) for layer in plain[3].caches] == [ArraysCache, BatchKVCache]
    assert plain[1].max_size == 8
    assert plain[2].left_padding.tolist() == plain[0].left_padding.tolist() == [0, 2]
    trained = batch_form(own, [0, 2], for_gradients=True)
    assert [type(layer) for layer in trained[:2]] == [caches.TracedCache, WindowCache]


def test_a_chunk_has_none() -> None:
    with pytest.raises(NoBatchForm, match="ChunkedKVCache"):
        batch_form([CacheList(KVCache(), ChunkedKVCache(8))], [0])


@pytest.mark.parametrize("length", [1, 3, 20])
def test_a_window_of_all_keys_sees_what_a_rotating_cache_sees(length: int) -> None:
    """The positions seen by the next token, by hand: the last 5 of them, and never the padding."""
    window = WindowCache(5, [0, 2])
    window.update_and_fetch(keys_of(2, length), keys_of(2, length))
    mask = window.make_mask(2)
    for row, padding in enumerate([0, 2]):
        for new in range(2):
            at = length + new
            seen = [padding <= key <= at and at - key < 5 for key in range(length + 2)]
            assert mask[row, 0, new].tolist() == seen
    assert WindowCache(5, [0]).make_mask(9, window_size=2)[0, 0, 8].tolist() == [False] * 7 + [True] * 2


def test_states_stand_side_by_side_and_forget_their_padding() -> None:
    (first,), (second,) = batch_form([ArraysCache(1)], [0, 3]), batch_form([ArraysCache(1)], [0])
    assert first.make_mask(4).tolist() == [[True] * 4, [False] * 3 + [True]]
    for layer, rows in ((first, 2), (second, 1)):
        layer[0] = keys_of(rows, 2)
        layer.advance(4)
        caches.forget_padding([layer])
        assert layer.make_mask(1) is None
    first.extend(second)
    assert rows_of(first) == [[0.0, 1.0, 0.0]]


def test_a_state_that_was_never_written_keeps_its_number_of_rows() -> None:
    """Prompts of one token: nothing is read before the completions."""
    (empty,), (other,) = batch_form([ArraysCache(1)], [0, 0]), batch_form([ArraysCache(1)], [0])
    caches.forget_padding([empty])
    other[0] = keys_of(1, 2, first=7.0)
    empty.extend(other)
    assert rows_of(empty) == [[0.0, 0.0, 7.0]]
