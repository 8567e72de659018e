"""Collective operations over the ranks of a run: split work, gather and sum results.

    world = join()                       # join.py; ALONE without a launcher
    mine = world.share(prompts)          # this rank's part, in order
    world.gather(found)                  # every rank's, in the order of the ranks; on all of them
    world.sum(gradients)                 # Σ over the ranks, on all of them

All ranks make the same calls in the same order. MLX's collectives silently corrupt arrays of different
shapes, so lengths are agreed on first. They have no time limit either, so a
watch ends the run if a rank is gone (watch.py).
"""

import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import mlx.core as mx

from grpo_cli.distributed.phase import Phase
from grpo_cli.distributed.watch import Watch
from grpo_cli.errors import GrpoError, TrainingError

Item = TypeVar("Item")

MOST_WORDS = 2000  # maximum characters of a rank's last message
LOST_CONNECTION = "connection to a peer was lost"  # MLX's message


class World:
    """One rank and its view of all of them. `ALONE` is the world of a single process."""

    def __init__(self, rank: int = 0, size: int = 1, watch: Watch | None = None) -> None:
        self.rank, self.size, self.watch = rank, size, watch
        self.is_echo = False  # True if a lower rank reports the error that ended this one

    @property
    def is_first(self) -> bool:
        """True for the rank that writes files and output for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's contiguous part of the items; sizes differ by at most one between ranks."""
        count = len(items)
        return items[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank. Values are JSON data; numbers are preserved exactly."""
        if self.size == 1:
            return [value]
        import mlx.core as mx

        data = json.dumps(value, ensure_ascii=False).encode()
        with self.collective():
            lengths: list[int] = mx.distributed.all_gather(mx.array([len(data)])).tolist()  # type: ignore[assignment]
            padded = as_array(data.ljust(max(lengths)))
            everything = bytes(memoryview(mx.distributed.all_gather(padded)))  # type: ignore[arg-type]
        width = max(lengths)
        return [json.loads(everything[rank * width :][:length]) for rank, length in enumerate(lengths)]

    def first(self, value: Item) -> Item:
        """Rank 0's value, on every rank."""
        result: Item = self.gather(value if self.is_first else None)[0]
        return result

    def any(self, flag: bool) -> bool:
        """True if any rank passes True."""
        return any(self.gather(flag))

    def sum(self, arrays: Any) -> Any:
        """Sum over the ranks of a tree of arrays, identical on every rank; evaluated.

        Raises TrainingError if the ranks' trees differ in structure or shapes.
        """
        if self.size == 1:
            return arrays
        import mlx.core as mx
        from mlx.utils import tree_flatten, tree_map

        shapes = [(name, array.shape, str(array.dtype)) for name, array in dict(tree_flatten(arrays)).items()]
        self.same("arrays to be added", hashlib.sha256(repr(shapes).encode()).hexdigest())
        with self.collective():
            # Not nn.average_gradients, which divides: a sum with zeros would no longer be exact.
            total = tree_map(mx.distributed.all_sum, arrays)
            mx.eval(total)
        return total

    def broadcast_tree(self, arrays: Any) -> Any:
        """Rank 0's tree of arrays, on every rank."""
        import mlx.core as mx
        from mlx.utils import tree_map

        return self.sum(arrays if self.is_first else tree_map(mx.zeros_like, arrays))

    def broadcast_bytes(self, data: bytes, count: int) -> bytes:
        """`count` bytes of rank 0, on every rank; the others pass b""."""
        import mlx.core as mx

        with self.collective():
            given = data if self.is_first else bytes(count)
            return bytes(memoryview(mx.distributed.all_sum(as_array(given))))  # type: ignore[arg-type]

    def same(self, what: str, value: Any) -> None:
        """Raise TrainingError unless all ranks pass the same value."""
        values = self.gather(value)
        if any(other != values[0] for other in values):
            raise TrainingError(
                f"The ranks have diverged: their {what} differ",
                "this is a bug in grpo: please report it with `grpo doctor --report FILE`; the last "
                "checkpoint is intact",
                trouble="several-machines",
            )

    def set_timeout(self, seconds: float) -> None:
        """Heartbeat timeout in seconds; 0 = adaptive."""
        if self.watch:
            self.watch.fixed_limit = seconds

    def set_phase(self, phase: str) -> None:
        """Start another kind of work on this rank. Raises ValueError for text that is not a Phase."""
        known = Phase(phase)
        if self.watch:
            self.watch.set_phase(known)

    def check(self) -> None:
        """Send a sign of work. Raises TrainingError if the run cannot continue because a rank is gone."""
        if self.watch:
            self.watch.sign()
            if self.watch.trouble is not None:
                self.watch.is_noticed = True
                raise lost(self.watch.trouble)

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Context for collectives, which wait for all ranks. Raises TrainingError if one is gone."""
        assert self.watch is not None
        self.check()
        doing = self.watch.doing
        self.watch.set_phase(Phase.WAITING)
        try:
            yield
        except RuntimeError as error:
            if LOST_CONNECTION not in str(error):
                raise
            self.watch.is_noticed = True
            raise lost(self.watch.reason() or str(error)) from error
        finally:
            self.watch.set_phase(doing)

    def shutdown(self, error: BaseException | None = None) -> None:
        """Tell the others that this rank is done, or which error ends it; they continue, or end too."""
        if self.watch is None:
            return
        if error is None:
            self.gather(None)  # nobody disconnects before all are done
        words = farewell(self.rank, error)
        self.watch.say(words)
        self.is_echo = self.rank > 0 and isinstance(error, GrpoError) and self.watch.is_told_of(words)
        self.watch.close(words)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.shutdown(error)


ALONE = World()


def lost(why: str) -> TrainingError:
    """The error of a rank that ends because another one is gone."""
    return TrainingError(
        f"The run ends: {why}",
        "rank 0 saves what it can; `grpo resume RUN` continues from the newest checkpoint, with any "
        "number of ranks",
        trouble="several-machines",
    )


def farewell(rank: int, error: BaseException | None) -> str:
    """A rank's last message to the others: "" if all is done."""
    if error is None:
        return ""
    message = error.message if isinstance(error, GrpoError) else f"{type(error).__name__}: {error}"
    prefix = "" if message.startswith("The run ends: ") else f"rank {rank} ({socket.gethostname()}) ended: "
    return (prefix + message.removeprefix("The run ends: ").strip())[:MOST_WORDS]


def as_array(data: bytes) -> "mx.array":
    """Bytes as an array (N,) of uint8."""
    import mlx.core as mx

    return mx.array(memoryview(data))  # type: ignore[arg-type]
