"""The groups of one update, a reference near its policy, and logprobs without the engine."""

import copy

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from grpo_cli.types import RolloutGroup
from tests.support.random_models import group, rollout

TEMPERATURE = 0.8


def nearby_reference(policy: Policy) -> Policy:
    """The same policy, a little sharper."""
    head = "model.embed_tokens.weight" if "model" in policy.model else "lm_head.weight"
    reference = copy.deepcopy(policy)
    reference.model.load_weights([(head, flat(policy.model.parameters())[head] * 1.05)], strict=False)
    return reference


def step_groups() -> list[RolloutGroup]:
    """Two prompts of other lengths; the last group's rewards were equal."""
    return [
        group([1, 2, 3, 4], [rollout([5, 6, 7], 1.2), rollout([8], -0.7), rollout([9, 10], -0.5)]),
        group([11], [rollout([12, 13, 14, 15], 0.9), rollout([16, 17], -0.9), rollout([18], 0.0)]),
        group([20, 21], [rollout([22, 23], 0.0), rollout([24], 0.0), rollout([25, 26, 27], 0.0)]),
    ]


def with_old_logprobs(model: nn.Module, groups: list[RolloutGroup], shift: float) -> None:
    """Old logprobs that are the model's own, shifted so that some ratios are clipped."""
    for one in groups:
        for index, item in enumerate(one.rollouts):
            logprobs = sequence_logprobs(model, one.prompt_ids, item.token_ids)
            item.logprobs = [value + shift * (-1) ** index for value in logprobs.tolist()]


def sequence_logprobs(model: nn.Module, prompt: list[int], completion: list[int]) -> mx.array:
    """Logprobs of one completion, alone, without padding: (T,)."""
    logits = model(mx.array([prompt + completion]))[0] / TEMPERATURE
    logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.stack([logits[len(prompt) - 1 + t, token] for t, token in enumerate(completion)])
