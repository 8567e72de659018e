"""top_p without sorting the whole vocabulary: the same set of tokens as with it."""

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.engine.rollout import sampling
from grpo_cli.engine.rollout.sampling import LIKELIEST, keep_top_p, nucleus

VOCABULARY = 6000
ROUNDING = 2e-6  # of a float32 sum of probabilities


def before(row: np.ndarray) -> np.ndarray:
    """For each token the probability of all likelier ones, in float64: (V,)."""
    order = np.argsort(-row, kind="stable")
    weights = np.exp((row - row.max()).astype(np.float64))
    probs = (weights / weights.sum())[order]
    result = np.empty(len(row))
    result[order] = np.concatenate([[0.0], np.cumsum(probs)[:-1]])
    return result


def logits(kind: str) -> mx.array:
    """Rows (6, V) without ties: of a random order, spread as the kind says."""
    random = np.random.default_rng(7)
    ranks = np.stack([random.permutation(VOCABULARY) for _ in range(6)])
    spread = {
        "sharp": -2.0 * ranks,  # temperature near 0: one token has all
        "usual": -8.0 * np.log1p(ranks) / np.log(30.0),
        "flat": -1e-4 * ranks,  # a high temperature: no thousand tokens reach p
        "mixed": -np.array([2.0, 1e-4, 0.5, 1e-3, 3e-3, 1e-2])[:, None] * ranks,
    }
    return mx.array(spread[kind].astype(np.float32))


@pytest.mark.parametrize("kind", ["sharp", "usual", "flat", "mixed"])
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.99, 0.999999])
def test_the_set_is_the_smallest_that_reaches_p(kind: str, p: float) -> None:
    """Tokens whose likelier ones have p to within float32's rounding may be on either side."""
    scaled = logits(kind)
    kept = np.array(keep_top_p(scaled, p)) > -np.inf
    for row, found in zip(np.array(scaled), kept, strict=True):
        exact = before(row)
        assert found[row.argmax()]
        assert exact[found].max() < p + ROUNDING
        assert exact[~found].min(initial=1.0) > p - ROUNDING


@pytest.mark.parametrize("kind", ["sharp", "usual", "flat", "mixed"])
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.99])
def test_the_set_is_that_of_sorting_all(kind: str, p: float) -> None:
    """Token for token, but for those that rounding puts on p."""
    scaled = logits(kind)
    probs = mx.softmax(scaled, axis=-1)
    whole, _ = nucleus(probs, mx.argsort(-scaled, axis=-1), p)
    differs = (np.array(keep_top_p(scaled, p)) > -np.inf) != np.array(whole)
    for row, found in zip(np.array(scaled), differs, strict=True):
        assert np.abs(before(row)[found] - p).max(initial=0.0) < ROUNDING
    assert differs.sum() <= 6


def test_kept_logits_stay_as_they_are() -> None:
    scaled = logits("usual")
    found = keep_top_p(scaled, 0.9)
    assert mx.where(found == -mx.inf, scaled, found).tolist() == scaled.tolist()


def sorted_widths(scaled: mx.array, p: float, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that are sorted on the way."""
    shapes: list[tuple[int, ...]] = []

    def recorded(array: mx.array, axis: int) -> mx.array:
        shapes.append(array.shape)
        return argsort(array, axis=axis)

    argsort = mx.argsort
    monkeypatch.setattr(sampling.mx, "argsort", recorded)
    mx.eval(keep_top_p(scaled, p))
    return shapes


def test_a_whole_row_is_sorted_only_where_the_likeliest_do_not_reach_p(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the mixed rows the second and the fourth are too flat: 1024 tokens have 0.22 and 0.64."""
    assert sorted_widths(logits("usual"), 0.9, monkeypatch) == [(6, LIKELIEST)]
    monkeypatch.undo()
    assert sorted_widths(logits("mixed"), 0.9, monkeypatch) == [(6, LIKELIEST), (2, VOCABULARY)]


def test_of_equal_tokens_no_more_are_kept_than_reach_p() -> None:
    """Four of eight with 1/8 each have exactly 1/2."""
    kept = keep_top_p(mx.zeros((1, 8)), 0.5)
    assert int((kept == 0).sum().item()) == 4


def test_logits_that_are_no_numbers_keep_nothing() -> None:
    """The draw's logprob is then NaN, too, by which a broken policy is told."""
    assert not mx.any(keep_top_p(mx.full((2, 2 * LIKELIEST), float("nan")), 0.9) > -mx.inf).item()
