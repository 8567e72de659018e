"""Groups of completions for rewards: texts, answers and columns."""

from typing import Any

from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason


def group(question: str, answer: str, texts: list[str], **columns: Any) -> RolloutGroup:
    """A group of rollouts with these texts."""
    rollouts = [
        Rollout(token_ids=[1], logprobs=[0.0], entropies=[0.0], stop_reason=StopReason.EOS, text=text)
        for text in texts
    ]
    return RolloutGroup(
        Example(messages=[{"role": "user", "content": question}], answer=answer, columns=columns),
        [1, 2],
        rollouts,
    )


def two_groups() -> list[RolloutGroup]:
    """Two prompts with two completions each."""
    return [
        group("1 + 1?", "2", ["<answer>2</answer>", "two"], level=1, source="a"),
        group("2 + 3?", "5", ["<answer>2</answer>", "<answer>5</answer>"], level=2),
    ]
