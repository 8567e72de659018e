"""Blockwise attention: values and gradients of MLX's own, for every mask, and less memory."""

import gc
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.base import create_causal_mask

from grpo_cli.cpu import block_sizes
from grpo_cli.cpu.attention import blockwise_attention, hides_later_keys
from tests.support.random_models import llama_policy, nanochat_policy

PLAIN = mx.fast.scaled_dot_product_attention
MASKS: dict[str, Callable[[int, int], Any]] = {  # of so many queries and keys
    "none": lambda _, __: None,
    "causal": lambda _, __: "causal",
    "array": lambda queries, keys: create_causal_mask(queries, keys - queries),
    "padded rows": lambda queries, keys: create_causal_mask(
        queries, keys - queries, left_padding=mx.array([0, 3])
    ),
    "window": lambda queries, keys: create_causal_mask(queries, keys - queries, window_size=4),
    "both ways": lambda queries, keys: mx.random.uniform(shape=(queries, keys)) < 0.7,
}


def arrays(queries: int, keys: int, key_heads: int = 2, value_width: int = 8) -> list[mx.array]:
    """Random queries (2, 4, L, 8), keys and values (2, KV, T, …), and a cotangent."""
    mx.random.seed(queries * 100 + keys)
    shapes = [(2, 4, queries, 8), (2, key_heads, keys, 8), (2, key_heads, keys, value_width)]
    return [mx.random.normal(shape) for shape in [*shapes, (2, 4, queries, value_width)]]


def value_and_gradients(mask: Any, q: mx.array, k: mx.array, v: mx.array, g: mx.array) -> list[mx.array]:
    """The attention's result, and its gradients by queries, keys and values for the cotangent g.

    Queries that see nothing, of padding, are left out.
    """
    sees = mask.any(axis=-1)[..., None] if isinstance(mask, mx.array) else mx.array(True)

    def loss(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
        out = mx.where(sees, out, 0.0)
        return (out * g).sum(), out

    (_, out), gradients = mx.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
    return [out, *gradients]


@pytest.mark.parametrize("queries, keys", [(7, 7), (40, 40), (5, 45), (33, 50)])
@pytest.mark.parametrize("mask", MASKS)
def test_values_and_gradients_are_mlx_s(
    mask: str, queries: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_sizes, "SCORES", 1)  # blocks of FEWEST queries
    given = arrays(queries, keys)
    made = MASKS[mask](queries, keys)
    expected = value_and_gradients(made, *given)
    with blockwise_attention():
        assert mx.fast.scaled_dot_product_attention is not PLAIN
        found = value_and_gradients(made, *given)
    assert mx.fast.scaled_dot_product_attention is PLAIN
    assert all(mx.allclose(a, b, rtol=1e-5, atol=2e-6) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("key_heads, value_width", [(1, 8), (4, 8), (2, 3)])
def test_heads_and_widths(key_heads: int, value_width: int) -> None:
    given = arrays(20, 20, key_heads, value_width)
    expected = value_and_gradients("causal", *given)
    with blockwise_attention():
        found = value_and_gradients("causal", *given)
    assert all(mx.allclose(a, b, rtol=1e-5, atol=2e-6) for a, b in zip(found, expected, strict=True))


def test_by_hand() -> None:
    """Two queries of one head: the first sees its own key only, the second both, as σ(−1) and σ(1)."""
    q, k = mx.array([[[[1.0], [1.0]]]]), mx.array([[[[0.0], [1.0]]]])
    v = mx.array([[[[10.0], [20.0]]]])
    with blockwise_attention():
        found = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask="causal")
    assert found.reshape(-1).tolist() == pytest.approx([10.0, 10 + 10 * 0.7310586])


def test_infinite_scores_of_padding_harm_nobody() -> None:
    """Ministral scales queries by their position, which gives infinite ones before a padded text begins."""
    queries, keys, values, _ = arrays(9, 9)
    mask = create_causal_mask(9, 0, left_padding=mx.array([0, 3]))
    expected = PLAIN(queries, keys, values, scale=0.3, mask=mask)
    queries[1, :, :3] = mx.inf
    with blockwise_attention():
        found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)
    assert mx.isfinite(found).all()
    assert mx.allclose(found[1, :, 3:], expected[1, :, 3:], atol=2e-6)


def test_a_mask_that_shows_later_keys_is_found() -> None:
    assert hides_later_keys(create_causal_mask(5, 3))
    assert hides_later_keys(create_causal_mask(5, 0, left_padding=mx.array([0, 2])))
    assert not hides_later_keys(mx.ones((5, 5), dtype=mx.bool_))
    traced: list[bool] = []
    mask = create_causal_mask(5, 0)
    mx.vmap(lambda one: traced.append(hides_later_keys(one)) or one)(mask[None])  # as in mx.compile
    assert traced == [False]


@pytest.mark.parametrize(
    "changes",
    [
        {"sinks": mx.zeros(4)},
        {"mask": mx.zeros((20, 20))},  # added to the scores
        {"mask": mx.ones((4, 20, 20), dtype=mx.bool_)},  # one for each head
        {"force_fused": True},
    ],
)
def test_what_it_does_not_know_is_left_to_mlx(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *_, **named: called.append(named))
    queries, keys, values, _ = arrays(20, 20)
    with blockwise_attention():
        mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, **changes)
        mx.fast.scaled_dot_product_attention(queries[:, :, :1], keys, values, scale=0.3)
        mx.fast.scaled_dot_product_attention(
            *(x.astype(mx.bfloat16) for x in (queries, keys, values)), scale=1.0
        )
    assert len(called) == 3


def loss(model: nn.Module, ids: mx.array) -> mx.array:
    return nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:], reduction="mean")


@pytest.mark.parametrize("policy", [llama_policy, nanochat_policy])
def test_a_model_has_the_same_gradient_and_needs_less(policy: Any) -> None:
    model = policy().model
    ids = mx.random.randint(0, 200, (2, 401))
    peaks, found = [], []

    def measured() -> None:
        mx.clear_cache()
        mx.reset_peak_memory()
        gc.collect()  # what earlier tests left must not be freed within the measurement
        before = mx.get_active_memory()
        value, gradients = nn.value_and_grad(model, loss)(model, ids)
        mx.eval(value, gradients)
        peaks.append(mx.get_peak_memory() - before)
        found.append(dict(tree_flatten(gradients)))

    measured()
    with blockwise_attention():
        measured()
    assert peaks[1] < 0.7 * peaks[0]
    for name, array in found[0].items():
        assert mx.allclose(found[1][name], array, rtol=1e-3, atol=1e-5), name
