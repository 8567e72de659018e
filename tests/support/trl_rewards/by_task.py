"""Two rewards for two kinds of rows; each gives None for the other kind."""

# ruff: noqa: ARG001


def math_reward_func(prompts, completions, task, answer, **kwargs):
    rewards = []
    for completion, kind, gold in zip(completions, task, answer, strict=True):
        if kind == "math":
            rewards.append(1.0 if gold in completion[0]["content"] else -1.0)
        else:
            rewards.append(None)
    return rewards


def coding_reward_func(prompts, completions, task, **kwargs):
    return [
        (1.0 if "def " in completion[0]["content"] else -1.0) if kind == "coding" else None
        for completion, kind in zip(completions, task, strict=True)
    ]
