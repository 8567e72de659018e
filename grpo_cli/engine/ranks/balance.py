"""Assignment of a step's microbatches to ranks, so that all finish at about the same time.

    assign_ranks(batches, ranks=2)       # sets batch.rank

With at least as many microbatches as ranks, groups stay whole, so each prompt is computed by one rank only.
With fewer, their rows are split. All ranks compute the same assignment, and the sum of their gradients is the
gradient of the step.
"""

import heapq

import mlx.core as mx

from grpo_cli.engine.update.batch import Microbatch


def assign_ranks(batches: list[Microbatch], ranks: int) -> list[Microbatch]:
    """The microbatches, split if they are fewer than ranks, each with its rank.

    The longest remaining microbatch goes to the least loaded rank (Graham 1969, "Bounds on Multiprocessing
    Timing Anomalies", section 5).
    """
    if ranks == 1:
        return batches
    if len(batches) < ranks:
        batches = [part for batch in batches for part in batch.in_rows(-(-len(batch.rows) // ranks))]
    loads = [(0, rank) for rank in range(ranks)]
    for batch in sorted(batches, key=cost, reverse=True):
        load, rank = heapq.heappop(loads)
        batch.rank = rank
        heapq.heappush(loads, (load + cost(batch), rank))
    return batches


def cost(batch: Microbatch) -> int:
    """Tokens that a microbatch computes: each prompt once, and the completions with padding."""
    return sum(len(prompt) for prompt in batch.prompts) + batch.targets.size


def checksum(arrays: dict[str, mx.array]) -> list[int]:
    """Sums of the arrays' bits, one per array; any single changed bit changes them."""
    words = [
        array.reshape(-1).view(mx.uint16 if array.dtype.size == 2 else mx.uint32) for array in arrays.values()
    ]
    sums = mx.stack([part.astype(mx.uint32).sum() for part in words])
    result: list[int] = sums.tolist()  # type: ignore[assignment]
    return result
