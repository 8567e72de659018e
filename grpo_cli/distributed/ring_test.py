"""Measure the ranks' connection; `grpo doctor --hosts` starts it on every host through `mlx.launch`.

    mlx.launch --hostfile hosts.json --backend ring -- python -m grpo_cli.distributed.ring_test
    # {"ring": {"size": 2, "latency_ms": 0.06, "bytes": 67108864, "seconds": 0.05, "moved_gb_s": 1.3}}

Latency is the time of a sum of one number; bandwidth comes from a sum of 64 MiB: a ring of N ranks moves
2 (N-1)/N of the array's bytes through each rank, half to sum the parts and half to distribute the sums
(Patarasu and Yuan 2009, section 3). Rank 0 prints; a rank that fails prints `{"failed": …, "rank": …}`.
"""

import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from grpo_cli.device import prepare
from grpo_cli.distributed.join import join
from grpo_cli.distributed.world import World
from grpo_cli.errors import ConfigError, GrpoError

if TYPE_CHECKING:
    import mlx.core as mx

BYTES = 64 << 20
LARGE_ROUNDS, SMALL_ROUNDS = 5, 100
LARGE_SECONDS = 10.0  # time limit for all large rounds: a slow network has fewer of them


def main() -> None:
    """Join, measure, and print."""
    prepare()
    try:
        with join() as world:
            if world.size == 1:
                raise ConfigError("A single process is not a ring", "start it with `mlx.launch`")
            found = measured(world)
            if world.is_first:
                print(json.dumps({"ring": found}), flush=True)
    except GrpoError as error:
        rank = int(os.environ.get("MLX_RANK", "0"))
        print(json.dumps({"failed": error.message, "rank": rank}), flush=True)
        sys.exit(error.exit_code)


def measured(world: World) -> dict[str, Any]:
    """Latency in ms, the time of a large sum in s, and what it moves per rank in GB/s."""
    import mlx.core as mx

    one, many = mx.ones(1), mx.ones(BYTES // 4)
    mx.eval(one, many)
    seconds(world, one)
    latency = statistics.median(seconds(world, one) for _ in range(SMALL_ROUNDS))
    first = seconds(world, many)
    rounds = world.first(max(1, min(LARGE_ROUNDS, int(LARGE_SECONDS / first))))
    large = statistics.median(seconds(world, many) for _ in range(rounds))
    moved = share_moved(world.size) * BYTES
    return {
        "size": world.size,
        "latency_ms": latency * 1e3,
        "bytes": BYTES,
        "seconds": large,
        "moved_gb_s": moved / large / 1e9,
    }


def seconds(world: World, array: "mx.array") -> float:
    """Time of a sum of `array` over the ranks, in seconds."""
    import mlx.core as mx

    with world.collective():
        started = time.perf_counter()
        mx.eval(mx.distributed.all_sum(array))
        return time.perf_counter() - started


def share_moved(size: int) -> float:
    """Fraction of an array's bytes that each rank of a ring sends during a sum."""
    return 2 * (size - 1) / size


if __name__ == "__main__":
    main()
