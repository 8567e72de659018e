"""Counts of a decoding step: they fail here where somebody adds a synchronization to the decoding loop."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine.rollout import continuous_batch
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.rollout.stream import stream
from grpo_cli.models.load import load_policy
from tests.bench.counters import Counts, counting, decoding_counts
from tests.bench.measure import Endless

PROMPTS = [[5, 6, 7], [8, 9]]


def rollouts(**keys: Any) -> Callable[[int], Any]:
    """Sampling of two completions of each of two prompts by the embedded model, of so many tokens."""
    policy = load_policy("tiny")
    policy.tokenizer = Endless(policy.tokenizer)  # type: ignore[assignment]
    return lambda tokens: generate(policy, PROMPTS, 2, Sampling(max_new_tokens=tokens, **keys))


def counted(sample: Callable[[int], Any]) -> Counts:
    return decoding_counts(sample, 2, 6)


def test_calls_evaluations_and_bytes_of_a_sum() -> None:
    numbers = mx.ones((4, 8))
    mx.eval(numbers)
    with counting() as counts:
        doubled = numbers + numbers
        mx.async_eval(doubled)
        assert doubled.sum().item() == 64.0
    assert (counts.calls, counts.order) == (4, ["async_eval", "item"])
    assert counts.nodes == 3  # Add; Sum and Squeeze are submitted by the reading
    assert counts.late_nodes == 2
    assert counts.bytes_read == 3 * 4 * 32  # both operands, and the doubled numbers
    assert (numbers + 1).tolist()[0][0] == 2.0
    assert counts.calls == 4  # nothing after the block


def test_a_decoding_step_of_the_rollouts() -> None:
    counts = counted(rollouts())
    assert counts.evaluations == {"async_eval": 1, "tolist": 3}
    assert counts.late_nodes == 0
    assert counts.calls <= 347
    assert counts.nodes <= 849


def test_the_kept_mass_is_not_computed_after_the_next_step() -> None:
    counts = counted(rollouts(top_k=5, min_p=0.01))
    assert counts.evaluations == {"async_eval": 1, "tolist": 4}
    assert counts.late_nodes == 0


def test_the_next_step_is_submitted_before_a_token_is_read() -> None:
    sample = rollouts()
    sample(4)
    with counting() as counts:
        sample(4)
    read = ["tolist"] * 3
    steps = ["async_eval", "async_eval", *read, "async_eval", *read, "async_eval", *read, *read]
    assert counts.order[-len(steps) :] == steps


def test_the_next_token_is_submitted_before_one_is_shown() -> None:
    policy = load_policy("tiny")
    policy.tokenizer = Endless(policy.tokenizer)  # type: ignore[assignment]
    with counting() as counts:
        assert len(list(stream(policy, PROMPTS[0], Sampling(max_new_tokens=3)))) == 3
    read = ["item", "__int__"]
    steps = ["async_eval", "async_eval", *read, "async_eval", *read, *read]
    assert counts.order[-len(steps) :] == steps
    assert counts.late_nodes == 0


def test_a_synchronization_more_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = continuous_batch.draw

    def draw(logits: mx.array, *rest: Any) -> Any:
        assert logits.max().item() < float("inf")
        return plain(logits, *rest)

    monkeypatch.setattr(continuous_batch, "draw", draw)
    counts = counted(rollouts())
    assert counts.evaluations == {"async_eval": 1, "item": 1, "tolist": 3}
    assert counts.late_nodes > 100
