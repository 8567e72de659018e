"""The step's loss written out completion by completion, token by token, from the papers: no engine in it."""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from grpo_cli.types import Rollout, RolloutGroup


def logits_of(model: nn.Module, prompt: list[int], completion: list[int], temperature: float) -> mx.array:
    """Scaled logits (T, V) before each token of one completion, alone, without padding or cache."""
    logits = model(mx.array([prompt + completion]))[0] / temperature
    return logits[len(prompt) - 1 : -1]


def logprobs_of(logits: mx.array, completion: list[int]) -> mx.array:
    """(T,) logprobs of a completion's tokens."""
    logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.stack([logits[place, token] for place, token in enumerate(completion)])


def own(rollout: Rollout, values: list[Any]) -> list[Any]:
    """The entries of the tokens that the policy wrote."""
    return [value for value, is_own in zip(values, rollout.loss_mask, strict=True) if is_own]


def own_logits(model: nn.Module, group: RolloutGroup, rollout: Rollout, keys: dict[str, Any]) -> mx.array:
    """Scaled logits before each token that the policy wrote; all tokens are read."""
    logits = logits_of(model, group.prompt_ids, rollout.token_ids, keys["temperature"])
    return logits[mx.array(own(rollout, list(range(len(rollout.token_ids)))))]


def policy_loss(
    logprobs: mx.array, old: mx.array, advantage: float, chosen: mx.array, keys: dict[str, Any]
) -> mx.array:
    """(T,) policy loss of one completion's tokens, 0 where it is not `chosen` (T,)."""
    if keys["loss_type"] == "gmpo":
        return geometric_loss(logprobs, old, advantage, chosen, keys)
    return chosen * token_loss(logprobs, old, advantage, keys)


def geometric_loss(
    logprobs: mx.array, old: mx.array, advantage: float, chosen: mx.array, keys: dict[str, Any]
) -> mx.array:
    """(T,) GMPO: the completion's loss −A · (Π clipped ratio)^(1/n), a share of it at each token."""
    ratio = mx.exp(logprobs) / mx.exp(old)
    low, high = math.exp(-keys["clip_eps"]), math.exp(keys["clip_eps_high"] or keys["clip_eps"])
    bounded = mx.where(ratio > high, high, ratio) if advantage > 0 else mx.where(ratio < low, low, ratio)
    kept = [bounded[place] for place in range(len(logprobs)) if chosen[place].item()]
    if not kept:
        return mx.zeros(len(logprobs))
    whole = -advantage * mx.stack(kept).prod() ** (1 / len(kept))
    return mx.stack([whole] * len(logprobs))


def sequence_weight(logprobs: mx.array, old: mx.array, advantage: float, keys: dict[str, Any]) -> mx.array:
    """VESPO's φ(W) of one completion."""
    whole = mx.stop_gradient((mx.exp(logprobs) / mx.exp(old)).prod())
    sign = "neg" if advantage < 0 else "pos"
    return whole ** keys[f"vespo_k_{sign}"] * mx.exp(keys[f"vespo_lambda_{sign}"] * (1 - whole))


def divergence_weight(logprobs: mx.array, old: mx.array, advantage: float, keys: dict[str, Any]) -> mx.array:
    """(T,) DPPO's bounded ratio, 0 for the tokens that moved too far."""
    new, before = mx.stop_gradient(mx.exp(logprobs)), mx.exp(old)
    moved = mx.abs(new - before)
    if keys["divergence_type"] == "binary_kl":
        moved = before * mx.log(before / new) + (1 - before) * mx.log((1 - before) / (1 - new))
    bound = (keys["clip_eps_high"] or keys["clip_eps"]) if advantage > 0 else keys["clip_eps"]
    away = (new > before) if advantage > 0 else (new < before)
    ratio = mx.where(new / before > keys["clip_ratio_c"], keys["clip_ratio_c"], new / before)
    return mx.where(away & (moved > bound), 0.0, ratio)


def token_loss(logprobs: mx.array, old: mx.array, advantage: float, keys: dict[str, Any]) -> mx.array:
    """(T,) loss of each token of a completion."""
    if keys["loss_type"] == "reinforce":
        return -logprobs * advantage
    if keys["loss_type"] == "vespo":
        return -sequence_weight(logprobs, old, advantage, keys) * advantage * logprobs
    if keys["loss_type"] == "dppo":
        return -divergence_weight(logprobs, old, advantage, keys) * advantage * logprobs
    if keys["loss_type"] == "sapo":
        slope = keys["sapo_temperature_pos" if advantage > 0 else "sapo_temperature_neg"]
        gate = 1 / (1 + mx.exp(-slope * (ratio_of(logprobs, old, keys) - 1)))
        return -4 / slope * gate * advantage
    low, high = 1 - keys["clip_eps"], 1 + (keys["clip_eps_high"] or keys["clip_eps"])
    ratio = ratio_of(logprobs, old, keys)
    if keys["loss_type"] == "cispo":
        return -mx.stop_gradient(mx.where(ratio < high, ratio, high)) * advantage * logprobs
    bound = mx.where(ratio < low, low, mx.where(ratio > high, high, ratio))
    free = mx.where(ratio > keys["delta"], keys["delta"], ratio) if keys["delta"] else ratio
    first, second = free * advantage, bound * advantage
    return -mx.where(first < second, first, second)


def ratio_of(logprobs: mx.array, old: mx.array, keys: dict[str, Any]) -> mx.array:
    """(T,) ratio of every token, or the one of the completion T times."""
    if keys["loss_type"] in ("gspo", "luspo", "gmpo") or keys["importance_sampling_level"] == "sequence":
        one = (mx.exp(logprobs) / mx.exp(old)).prod() ** (1 / len(logprobs))
        return mx.stack([one] * len(logprobs))
    return mx.exp(logprobs) / mx.exp(old)


def divergence_of(logprobs: mx.array, ref: mx.array, old: mx.array, keys: dict[str, Any]) -> mx.array:
    """(T,) KL estimates of one completion's tokens."""
    ref_over_policy = mx.exp(ref) / mx.exp(logprobs)
    estimate = -mx.log(ref_over_policy)
    if keys["kl_estimator"] == "k3":
        estimate = ref_over_policy - mx.log(ref_over_policy) - 1
    return estimate * ratio_of(logprobs, old, keys) if keys["use_bias_correction_kl"] else estimate


def counts(rollout: Rollout, keys: dict[str, Any]) -> bool:
    return not (keys["mask_truncated_completions"] and rollout.stop_reason == "length")


def weight_of(groups: list[RolloutGroup], index: int, rollout: Rollout, keys: dict[str, Any]) -> float:
    """The weight of each token of a completion of group `index`."""
    size = keys["batch_size"]
    forwards = [groups[start : start + size] for start in range(0, len(groups), size)]
    tokens = [
        sum(sum(r.loss_mask) for g in forward for r in g.rollouts if counts(r, keys)) for forward in forwards
    ]
    sequences = sum(counts(r, keys) for g in groups for r in g.rollouts)
    return {
        **dict.fromkeys(("grpo", "gspo", "gmpo", "sapo"), 1 / (sequences * sum(rollout.loss_mask))),
        "luspo": 1 / sequences,
        "bnpo": 1 / (tokens[index // size] or 1) / sum(count > 0 for count in tokens),
        "dapo": 1 / sum(tokens),
        **dict.fromkeys(("cispo", "vespo", "dppo", "reinforce"), 1 / sum(tokens)),
        "dr_grpo": 1 / (sequences * keys["max_new_tokens"]),
    }[keys["loss_type"]]


def plain_loss(
    model: nn.Module, reference: nn.Module, groups: list[RolloutGroup], keys: dict[str, Any]
) -> mx.array:
    """The loss of a step, from the configuration's own keys."""
    counting = [r for g in groups for r in g.rollouts if counts(r, keys)]
    entropies = [entropy for r in counting for entropy in own(r, r.entropies)]
    threshold = -math.inf
    if keys["top_entropy_quantile"] < 1:
        threshold = float(np.quantile(entropies, 1 - keys["top_entropy_quantile"]))
    loss = mx.array(0.0)
    for index, group in enumerate(groups):
        for rollout in [r for r in group.rollouts if counts(r, keys)]:
            written = own(rollout, rollout.token_ids)
            logits = own_logits(model, group, rollout, keys)
            logprobs, old = logprobs_of(logits, written), mx.array(own(rollout, rollout.logprobs))
            chosen = mx.array([float(entropy >= threshold) for entropy in own(rollout, rollout.entropies)])
            token = policy_loss(logprobs, old, rollout.advantage, chosen, keys)
            if keys["kl_coeff"]:
                ref_logprobs = logprobs_of(own_logits(reference, group, rollout, keys), written)
                token = token + keys["kl_coeff"] * divergence_of(logprobs, ref_logprobs, old, keys)
            if keys["entropy_coeff"]:
                probabilities = mx.softmax(logits, axis=-1)
                entropy = -(probabilities * mx.log(probabilities)).sum(axis=-1)
                token = token - keys["entropy_coeff"] * entropy
            loss = loss + weight_of(groups, index, rollout, keys) * token.sum()
    return loss
