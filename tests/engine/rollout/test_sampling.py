"""Sampling: top_p, top_k and min_p against numbers by hand, and the run's own random numbers."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import resume as resuming
from grpo_cli.engine.resume import resume
from grpo_cli.engine.rollout import sampling
from grpo_cli.engine.rollout.sampling import LIKELIEST, KeyChain, Sampling, draw, keep_top_p, narrow, nucleus
from grpo_cli.engine.run_dir.run_state import random_state, read_state
from grpo_cli.engine.train import train
from tests.support import letter_reward
from tests.support.interruptions import Stop, crash_after
from tests.support.prepared_runs import prepared
from tests.support.small_runs import SHORT, small
from tests.support.steps import scored_groups


def kept(sampling: Sampling, probabilities: list[float]) -> list[bool]:
    logits = narrow(mx.log(mx.array([probabilities])), sampling)[0]
    return [value > float("-inf") for value in logits.tolist()]


CUT = [
    (Sampling(max_new_tokens=1, top_k=2), 0.75),  # 0.5 + 0.25
    (Sampling(max_new_tokens=1, top_p=0.8), 0.9),  # 0.5 + 0.25 + 0.15
    (Sampling(max_new_tokens=1, min_p=0.25), 0.9),  # all above 0.125
    (Sampling(max_new_tokens=1, top_k=3, top_p=0.5), 0.5),
]

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


# --- the run's own random numbers -----------------------------------------------------------------


REWARDS = letter_reward.__file__
SETTINGS = {**SHORT, "max_train_samples": 1, "batch_size": 1, "num_epochs": 4, "max_steps": 4}
SEEDING: dict[str, Any] = {**SETTINGS, "reward_functions": [f"{REWARDS}:with_seeds"]}


def completions(folder: Path) -> list[list[str]]:
    """The texts that were logged, by step."""
    steps: dict[int, list[str]] = {}
    for line in (folder / "completions.jsonl").read_text().splitlines():
        entry = json.loads(line)
        steps.setdefault(entry["step"], []).append(entry["completion"])
    return list(steps.values())


@pytest.mark.parametrize("seed", [0, 7, 1 << 40])
def test_the_chain_gives_what_mlxs_own_state_would(seed: int) -> None:
    chain = KeyChain.of_seed(seed)
    mx.random.seed(seed)
    for _ in range(3):
        assert (
            mx.random.uniform(shape=(4,)).tolist() == mx.random.uniform(shape=(4,), key=chain.next()).tolist()
        )
        assert chain.words == random_state()
        chain = KeyChain(chain.words)


def test_a_reward_that_seeds_changes_no_completion(tmp_path: Path) -> None:
    plain, seeding = small(tmp_path, run_name="plain", **SETTINGS), small(tmp_path, **SEEDING)
    train(plain)
    train(seeding)
    found = completions(seeding.run_dir)
    assert found == completions(plain.run_dir)
    assert all(step != earlier for earlier, step in pairwise(found))


def test_resumed_it_goes_on_with_its_own_numbers(tmp_path: Path) -> None:
    whole = small(tmp_path, run_name="whole", **SEEDING)
    train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **SEEDING)
    with pytest.raises(Stop):
        train(broken, crash_after(2))
    state = read_state(broken.run_dir / "checkpoint-2")[0]
    assert state.sampling_state != state.random_state
    resume(broken.run_dir)
    assert completions(broken.run_dir) == completions(whole.run_dir)


def test_a_checkpoint_of_old_goes_on_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has MLX's state only, which rollouts were drawn from then."""

    def read_old(folder: Path) -> Any:
        state, groups = read_state(folder)
        state.random_state, state.sampling_state = state.sampling_state, []
        return state, groups

    whole = small(tmp_path, run_name="whole", **SETTINGS)
    train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **SETTINGS)
    with pytest.raises(Stop):
        train(broken, crash_after(2))
    monkeypatch.setattr(resuming, "read_state", read_old)
    resume(broken.run_dir)
    assert completions(broken.run_dir) == completions(whole.run_dir)


# --- as configured --------------------------------------------------------------------------------


def test_the_configured_sampling() -> None:
    config = Config(
        max_new_tokens=33, temperature=0.6, top_p=0.9, top_k=7, min_p=0.05, stop=["</answer>", "\n\n"],
        eval_max_new_tokens=44,
    )  # fmt: skip
    stop = ("</answer>", "\n\n")
    assert Sampling.for_training(config) == Sampling(
        max_new_tokens=33, temperature=0.6, top_p=0.9, top_k=7, min_p=0.05, stop=stop
    )
    assert Sampling.for_evaluation(config) == Sampling(
        max_new_tokens=44, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, stop=stop
    )


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=1, top_k=2),
        Sampling(max_new_tokens=1, top_p=0.7),
        Sampling(max_new_tokens=1, min_p=0.4),
    ],
)
def test_left_out_tokens_are_never_drawn_and_the_others_keep_their_odds(sampling: Sampling) -> None:
    logits = mx.log(mx.array([[0.1, 0.5, 0.15, 0.25]] * 1000))
    mx.random.seed(0)
    drawn = draw(logits, sampling)
    tokens: list[int] = drawn.tokens.tolist()  # type: ignore[assignment]
    assert set(tokens) == {1, 3}
    assert tokens.count(1) / 1000 == pytest.approx(2 / 3, abs=0.05)  # 0.5 : 0.25
    whole = mx.where(drawn.tokens == 1, math.log(0.5), math.log(0.25))  # of all four tokens, as in the loss
    assert mx.allclose(drawn.logprobs, whole, atol=1e-6)


def test_rollouts_are_drawn_with_the_configured_sampling(tmp_path: Path) -> None:
    """Of one token to choose from there is one completion, at any temperature."""
    run, _ = prepared(tmp_path, temperature=5.0, top_k=1, num_generations=3, max_new_tokens=6)
    for one in scored_groups(run):
        first, *others = [item.token_ids for item in one.rollouts]
        assert others == [first, first]
        assert len(first) <= 6


# --- by hand --------------------------------------------------------------------------------------


def test_draw_by_hand() -> None:
    # logits [ln 1, ln 3] at temperature 1: probabilities 0.25, 0.75; entropy 0.5623 nats
    logits = mx.log(mx.array([[1.0, 3.0]] * 4000))
    mx.random.seed(0)
    drawn = draw(logits, Sampling(max_new_tokens=1))
    assert drawn.tokens.sum().item() / 4000 == pytest.approx(0.75, abs=0.03)
    chosen = mx.where(drawn.tokens == 1, mx.log(mx.array(0.75)), mx.log(mx.array(0.25)))
    assert mx.allclose(drawn.logprobs, chosen, atol=1e-6)
    assert drawn.entropies[0].item() == pytest.approx(0.562335, abs=1e-5)
    # temperature 0.5 squares the odds: 0.1, 0.9
    colder = draw(logits, Sampling(max_new_tokens=1, temperature=0.5))
    assert colder.tokens.sum().item() / 4000 == pytest.approx(0.9, abs=0.03)
    assert draw(logits, Sampling(max_new_tokens=1, temperature=0.0)).tokens.tolist() == [1] * 4000


def test_top_k_top_p_and_min_p_by_hand() -> None:
    probabilities = [0.1, 0.5, 0.15, 0.25]
    assert kept(Sampling(max_new_tokens=1, top_k=2), probabilities) == [False, True, False, True]
    assert kept(Sampling(max_new_tokens=1, top_p=0.7), probabilities) == [False, True, False, True]
    assert kept(Sampling(max_new_tokens=1, top_p=0.8), probabilities) == [False, True, True, True]
    assert kept(Sampling(max_new_tokens=1, top_p=0.01), probabilities) == [False, True, False, False]
    assert kept(Sampling(max_new_tokens=1, min_p=0.25), probabilities) == [False, True, True, True]
    assert kept(Sampling(max_new_tokens=1, top_k=100), probabilities) == [True] * 4


@pytest.mark.parametrize(("sampling", "mass"), CUT)
def test_the_kept_mass_by_hand(sampling: Sampling, mass: float) -> None:
    """Drawn with q = π / m: the frequencies are those of the recorded logprob less the recorded mass."""
    probabilities = [0.1, 0.5, 0.15, 0.25]
    mx.random.seed(0)
    drawn = draw(mx.log(mx.array([probabilities] * 4000)), sampling)
    assert drawn.log_kept is not None
    assert mx.allclose(drawn.log_kept, mx.array(math.log(mass)), atol=1e-6)
    tokens: Any = drawn.tokens.tolist()
    for token in set(tokens):
        assert probabilities[token] / mass == pytest.approx(tokens.count(token) / 4000, abs=0.03)


def test_the_whole_vocabulary_has_no_kept_mass() -> None:
    assert draw(mx.zeros((2, 5)), Sampling(max_new_tokens=1)).log_kept is None
    assert draw(mx.zeros((2, 5)), Sampling(max_new_tokens=1, temperature=0.0, top_k=2)).log_kept is None
