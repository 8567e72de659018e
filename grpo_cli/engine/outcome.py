"""What came of an update, as numbers for the log: of one that was made, of none, and of a skipped one."""

import math
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.importance_sampling import Spread
from grpo_cli.engine.guards.nonfinite import Fault
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.objective import UpdateResult


def has_advantages(batches: list[Microbatch]) -> bool:
    """Whether some completion is better or worse than its group."""
    return any(rollout.advantage != 0.0 for batch in batches for rollout in batch.rollouts)


def nothing(config: Config) -> UpdateResult:
    """What an update without a single token did."""
    result = UpdateResult(0.0, 0.0, 0.0, 0.0, 0.0, 0.0 if config.kl_coeff > 0 else None)
    result.importance = Spread() if config.quantize_for_rollouts else None
    return result


def update_numbers(result: UpdateResult, fault: Fault | None) -> dict[str, Any]:
    """The update's numbers for the log; with a fault those that are none are null, and `skipped` says why."""
    numbers = {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "kl": result.kl,
        "clip_ratio": result.clip_ratio,
        "clip_ratio_low": result.clip_ratio_low,
        "clip_ratio_high": result.clip_ratio_high,
        **(result.importance.numbers() if result.importance else {}),
    }
    if fault is None:
        return numbers
    finite = {
        name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()
    }
    return {**finite, "skipped": str(fault)}
