"""The learning rate of each optimizer update: a linear warmup, then cosine, linear or constant."""

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float, shape: str) -> float:
    """Learning rate of update `step`, counted from 1.

    Over the first round(warmup_ratio · total_steps) updates it rises linearly and reaches the peak at the
    last of them, so it is never 0. Then `constant` keeps the peak, while `cosine` and `linear` fall and
    would reach 0 one update after the last.
    """
    warmup = round(warmup_ratio * total_steps)
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup - 1) / max(1, total_steps - warmup)  # 0 … just under 1
    if shape == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (1.0 - progress) if shape == "linear" else peak
