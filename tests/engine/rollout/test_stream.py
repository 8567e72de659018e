"""Streaming: the tokens of a plain loop, also where others append to the row while the next is computed."""

import mlx.core as mx
import pytest

from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.rows import CompletionRow
from grpo_cli.engine.rollout.sampling import Sampling, draw
from grpo_cli.engine.rollout.stream import sampled
from grpo_cli.models.load import Policy
from tests.support.random_models import llama_policy

PROMPT = [5, 6, 7]
FORCED = {2: [8], 5: [9, 10, 11]}  # number of tokens sampled so far → the ids appended then


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_tokens_are_those_of_a_plain_loop(temperature: float) -> None:
    policy, sampling = llama_policy(), Sampling(max_new_tokens=9, temperature=temperature)
    mx.random.seed(4)
    expected = plain(policy, sampling)
    mx.random.seed(4)
    row = CompletionRow(index=0, prompt=PROMPT)
    row.begin()
    for _ in sampled(policy, row, sampling, CompletionText(policy.tokenizer)):
        row.add_forced(FORCED.get(row.sampled, []), cuts_tail=False)
        row.stop_reason = None if row.sampled < 9 else row.stop_reason
    assert row.token_ids == expected
    assert len(expected) == 13


def plain(policy: Policy, sampling: Sampling) -> list[int]:
    """Completion by whole forwards without a cache, each after the last one was read."""
    ids: list[int] = []
    for count in range(1, sampling.max_new_tokens + 1):
        logits = policy.model(mx.array([PROMPT + ids]))[:, -1]
        ids += [int(draw(logits, sampling).tokens), *FORCED.get(count, [])]
    return ids
