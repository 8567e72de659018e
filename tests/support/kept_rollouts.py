"""Rollouts of one small problem in a run's folder, as the engine writes them."""

from pathlib import Path

from grpo_cli.engine.run_dir.rollout_log import write_step
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason

PIECES = {1: "<answer>", 2: "3", 3: "</answer>", 4: "<|end|>"}


def group(count: int, number: int = 2) -> RolloutGroup:
    example = Example(messages=[{"role": "user", "content": "What is 1 + 2?"}], answer="3")
    text = f"<answer>{PIECES[number]}</answer>"
    made = [
        Rollout(
            token_ids=[1, number, 3, 4], logprobs=[-0.1, -2.0, 0.0, 0.0], entropies=[0.0] * 4, text=text,
            stop_reason=StopReason.EOS, rewards={"right": 1.0}, reward=1.0, advantage=0.5,
        )
        for _ in range(count)
    ]  # fmt: skip
    return RolloutGroup(example, [1], made)


def kept(folder: Path, step: int, groups: int = 2, count: int = 3) -> None:
    (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    write_step(folder / "rollouts", step, [group(count) for _ in range(groups)], PIECES)
