"""MLX's cache of freed memory: its limit, and when it is cleared.

    limit = cache_limit(config, "metal", needs, budget)        # bytes
    room = CacheRoom(needs, budget)
    room.before_update()            # clears the cache if it and the update exceed the budget

MLX keeps freed buffers for reuse. By default it keeps up to 0.95 times the memory of a Mac or a CUDA card
(mlx/backend/metal/allocator.cpp), beside the arrays in use; neither the peak of MLX nor the memory estimate
counts them. Rollouts and update need buffers of other sizes, so each fills the cache with what the other
cannot reuse.
"""

from dataclasses import dataclass

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine.memory.estimate import MemoryNeeds

LEAST = 1 << 28  # bytes; with less, arrays of every step would be allocated again
UNKNOWN_SHARE = 8  # of the budget, the cache's part if the run's needs are not known


def cache_limit(
    config: Config, kind: device.Kind, needs: MemoryNeeds | None, budget: int | None
) -> int | None:
    """Limit of MLX's cache in bytes; None: not known, so MLX's own.

    Without `cache_limit_gb` it is 1 GiB on the CPU. On Metal and CUDA it is the temporary memory of a step,
    the most that can be reused, as far as `budget`, the device's memory in bytes, leaves room for it.
    """
    if config.cache_limit_gb:
        return int(config.cache_limit_gb * 1e9)
    if kind == "cpu":
        return device.CPU_CACHE_BYTES
    if budget is None:
        return None
    if needs is None:
        return budget // UNKNOWN_SHARE
    reusable = needs.peak - needs.weights - needs.optimizer
    return max(LEAST, min(reusable, budget - needs.peak))


@dataclass(frozen=True)
class CacheRoom:
    """Clears MLX's cache before work that may not fit beside it. Either may be unknown: then never."""

    needs: MemoryNeeds | None = None
    budget: int | None = None  # bytes

    def before_rollouts(self) -> None:
        """Call before sampling."""
        self._make(self.needs.rollout_peak if self.needs else 0)

    def before_update(self) -> None:
        """Call before the gradient."""
        self._make(self.needs.update_peak if self.needs else 0)

    def _make(self, peak: int) -> None:
        if self.budget is not None and peak and peak + device.cache_memory() > self.budget:
            device.clear_cache()
