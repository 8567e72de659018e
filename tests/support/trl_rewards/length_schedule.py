"""A penalty on length that grows with the progress of training."""

# ruff: noqa: ARG001


def length_reward(completions, trainer_state, **kwargs):
    progress = trainer_state.global_step / max(trainer_state.max_steps, 1)
    weight = 0.5 + 0.5 * progress
    lengths = [len(completion[0]["content"]) for completion in completions]
    return [-weight * abs(20 - length) / 20 for length in lengths]
