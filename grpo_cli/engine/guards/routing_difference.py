"""Compare the experts that a mixture chooses in sampling with those that it chooses in the loss.

    share = routing_difference(model, plan)      # 0.0 in float32; None for a model without experts

Rounding differs between one token with a cache and a whole row. Where two experts score nearly the same, that
decides which one is chosen, and the token's logprob differs by more than rounding: `ratio_deviation` in the
log shows it. The update is still that of the policy that the loss computes.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.engine.rollout.prompt_cache import keep, read_prompts
from grpo_cli.engine.update.expert_balance import at_places, mixtures, recorded_routing
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.forward_probe import PROBE_VOCABULARY, batch_of
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.evaluating import evaluating

PROMPT = [1 + 7 * place % PROBE_VOCABULARY for place in range(12)]
ROWS, NEW_TOKENS = 3, 32


def routing_difference(model: nn.Module, plan: BatchPlan) -> float | None:
    """Fraction of tokens and layers whose experts differ between sampler and loss."""
    if not mixtures(model):
        return None
    rows = 1 if "single" in (plan.sampled, plan.trained) else ROWS
    places = range(NEW_TOKENS)
    ids = [[1 + (11 * place + 5 * row) % PROBE_VOCABULARY for place in places] for row in range(rows)]
    batch = batch_of([PROMPT], [0] * rows, mx.array(ids, dtype=mx.int32))
    inputs = batch.inputs  # (B, S)
    with recorded_routing(model) as sampled, evaluating(model):
        cache = read_prompts(model, [PROMPT], together=plan.sampled)
        keep(cache, [0] * rows)
        mx.eval([model(inputs[:, at : at + 1], cache=cache) for at in places])
    forward = ForwardPlan(plan.share_prefix, together=plan.shared)
    with recorded_routing(model) as trained:
        mx.eval(token_logprobs(model, batch, 1.0, forward))
    columns = forward.places(batch)
    differs = [
        mx.any(in_order(by_token(one, rows)) != in_order(at_places(calls[-1], inputs, columns)), axis=-1)
        for one, calls in zip(sampled.chosen, trained.chosen, strict=True)
    ]  # (B, S) for each mixture
    share: Any = mx.stack(differs).astype(mx.float32).mean().item()
    return float(share)


def by_token(calls: list[mx.array], rows: int) -> mx.array:
    """The experts chosen in the last NEW_TOKENS calls of a mixture: (B, S, k)."""
    return mx.concatenate([call.reshape(rows, 1, -1) for call in calls[-NEW_TOKENS:]], axis=1)


def in_order(experts: mx.array) -> mx.array:
    """The same experts, the smallest number first: (…, k)."""
    return mx.sort(experts, axis=-1)
