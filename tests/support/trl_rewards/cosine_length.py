"""A factory of rewards that fall along a cosine of the completion's length in tokens."""

# ruff: noqa: ARG001

import math


def get_cosine_reward(max_len: int, wrong=(-1.0, -0.5), right=(0.5, 1.0)):
    def cosine_reward(completions, answer, completion_ids, **kwargs):
        rewards = []
        for completion, gold, ids in zip(completions, answer, completion_ids, strict=True):
            is_right = gold in completion[0]["content"]
            # wrong answers: the bounds are swapped, so that short ones cost more
            low, high = right if is_right else (wrong[1], wrong[0])
            progress = min(len(ids) / max_len, 1.0)
            rewards.append(low + 0.5 * (high - low) * (1.0 + math.cos(progress * math.pi)))
        return rewards

    return cosine_reward


cosine_scaled_reward = get_cosine_reward(max_len=8)
