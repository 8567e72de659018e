"""The numbers game: the equation in the answer uses each number of its row once and makes the target."""

# ruff: noqa: ARG001

import re


def equation_reward_func(completions, target, nums, **kwargs):
    rewards = []
    for completion, goal, numbers in zip(completions, target, nums, strict=True):
        try:
            match = re.search(r"<answer>(.*?)<\/answer>", completion[0]["content"], re.DOTALL)
            equation = match.group(1).strip()
            used = [int(n) for n in re.findall(r"\d+", equation)]
            if sorted(used) != sorted(numbers) or not re.match(r"^[\d+\-*/().\s]+$", equation):
                rewards.append(0.0)
                continue
            result = eval(equation, {"__builtins__": None}, {})
            rewards.append(1.0 if abs(float(result) - float(goal)) < 1e-5 else 0.0)
        except Exception:
            rewards.append(0.0)
    return rewards
