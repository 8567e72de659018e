"""The ranks of a run as one: what is shared out among them, and what is put together again.

    world = join()                       # ALONE without a launcher
    mine = world.share(prompts)          # this rank's part, in order
    world.gather(found)                  # every rank's, in the order of the ranks; on all of them
    world.sum(gradients)                 # Σ over the ranks, on all of them

All ranks make the same calls in the same order. A collective of MLX between arrays of other shapes corrupts
both without a word, so what has a length of its own is agreed on first; and none has a time limit, so a
watch ends the run where a rank is gone (watch.py).
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import mlx.core as mx

from grpo_cli.distributed.links import listen, open_links
from grpo_cli.distributed.topology import LAUNCHER, RankInfo, find_rank
from grpo_cli.distributed.watch import WAITING, Watch
from grpo_cli.errors import GrpoError, TrainingError
from grpo_cli.foreign_text import visible

Item = TypeVar("Item")

JOIN_SECONDS = 600.0  # for all ranks to arrive; a machine that is busy takes minutes to start Python
MOST_WORDS = 2000  # characters of a farewell
LOST = "connection to a peer was lost"  # MLX's words


class World:
    """One rank and its view of all of them. `ALONE` is the world of a single one."""

    def __init__(self, rank: int = 0, size: int = 1, watch: Watch | None = None) -> None:
        self.rank, self.size, self.watch = rank, size, watch
        self.is_echo = False  # whether a lower rank tells of the error that ended this one

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's items: a run of them, as many as the others have or one more or less."""
        count = len(items)
        return items[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def gather(self, value: Any) -> list[Any]:
        """What every rank gives, by rank. For what JSON holds; numbers come out as they were."""
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
        """What rank 0 gives, on every rank."""
        result: Item = self.gather(value if self.is_first else None)[0]
        return result

    def any(self, flag: bool) -> bool:
        """Whether some rank says so."""
        return any(self.gather(flag))

    def sum(self, arrays: Any) -> Any:
        """Σ over the ranks of a tree of arrays, the same numbers on every rank; evaluated.

        Raises TrainingError where the ranks' trees are not of the same shape.
        """
        if self.size == 1:
            return arrays
        import mlx.core as mx
        from mlx.utils import tree_flatten, tree_map

        shapes = [(name, array.shape, str(array.dtype)) for name, array in dict(tree_flatten(arrays)).items()]
        self.same("arrays to be added", hashlib.sha256(repr(shapes).encode()).hexdigest())
        with self.collective():
            # Not nn.average_gradients, which divides: a sum with zeros is then no longer exact.
            total = tree_map(mx.distributed.all_sum, arrays)
            mx.eval(total)
        return total

    def broadcast_tree(self, arrays: Any) -> Any:
        """A tree of arrays of rank 0, on every rank."""
        import mlx.core as mx
        from mlx.utils import tree_map

        return self.sum(arrays if self.is_first else tree_map(mx.zeros_like, arrays))

    def broadcast_bytes(self, data: bytes, count: int) -> bytes:
        """`count` bytes of rank 0, on every rank; the others give b""."""
        import mlx.core as mx

        with self.collective():
            given = data if self.is_first else bytes(count)
            return bytes(memoryview(mx.distributed.all_sum(as_array(given))))  # type: ignore[arg-type]

    def same(self, what: str, value: Any) -> None:
        """Raise TrainingError unless every rank gives the same."""
        values = self.gather(value)
        if any(other != values[0] for other in values):
            raise TrainingError(
                f"The ranks have come apart: their {what} differ",
                "a mistake of ours: `grpo doctor --report FILE` and tell us; the last checkpoint is intact",
                trouble="several-machines",
            )

    def set_timeout(self, seconds: float) -> None:
        """So long a rank may give no sign of work; 0: by what is measured."""
        if self.watch:
            self.watch.fixed_limit = seconds

    def set_phase(self, doing: str) -> None:
        """Another kind of work begins on this rank."""
        if self.watch:
            self.watch.set_phase(doing)

    def check(self) -> None:
        """Show that work goes on. Raises TrainingError where the run cannot, since another rank is gone."""
        if self.watch:
            self.watch.sign()
            if self.watch.trouble is not None:
                self.watch.is_noticed = True
                raise lost(self.watch.trouble)

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Around collectives, where a rank waits for the others. Raises TrainingError where one is gone."""
        assert self.watch is not None
        self.check()
        doing = self.watch.doing
        self.watch.set_phase(WAITING)
        try:
            yield
        except RuntimeError as error:
            if LOST not in str(error):
                raise
            self.watch.is_noticed = True
            raise lost(self.watch.reason() or str(error)) from error
        finally:
            self.watch.set_phase(doing)

    def shutdown(self, error: BaseException | None = None) -> None:
        """Tell the others that this rank is done, or what ends it; they go on, or end, too."""
        if self.watch is None:
            return
        if error is None:
            self.gather(None)  # nobody hangs up before all are done
        words = farewell(self.rank, error)
        self.watch.say(words)
        self.is_echo = self.rank > 0 and isinstance(error, GrpoError) and self.watch.is_told_of(words)
        self.watch.close(words)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.shutdown(error)


ALONE = World()


def join(on_wait: Callable[[str], None] = lambda _: None) -> World:
    """Meet the other ranks that the launcher started; ALONE without a launcher.

    `on_wait` gets a sentence each time the wait gets long. Raises TrainingError where the ranks do not come
    together within JOIN_SECONDS, ConfigError for a launcher unknown to us.
    """
    place = find_rank(os.environ)
    if place is None:
        return ALONE
    launcher = Launcher()
    links = open_links(place, JOIN_SECONDS, on_wait)
    watch = Watch(place.rank, place.size, links, socket.gethostname(), end, launcher.is_gone)
    try:
        check_port(place)
        trouble = watch.meet(
            JOIN_SECONDS, on_wait
        )  # who cannot connect says so before the others wait for it
        if trouble:
            raise lost(trouble)
        connect(place)
    except GrpoError as error:
        watch.close(farewell(place.rank, error))
        raise
    return World(place.rank, place.size, watch)


def connect(place: RankInfo) -> None:
    """Have MLX connect the ranks, all of which are there. Raises TrainingError where it cannot."""
    import mlx.core as mx

    try:
        with time_limit(JOIN_SECONDS, f"{not_connected(place)}"):
            mx.distributed.init(strict=True, backend=place.backend)
            mx.eval(mx.distributed.all_sum(mx.ones(1)))
    except RuntimeError as error:
        raise cannot_connect(place, error) from error


TIME_LIMIT = """
import os, select, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    print(sys.argv[2], file=sys.stderr, flush=True)
    os.kill(os.getppid(), 9)
"""


@contextmanager
def time_limit(seconds: float, words: str) -> Iterator[None]:
    """Kill this process with `words` on stderr where the block takes longer.

    MLX connects without a time limit and holds Python's lock meanwhile, so no thread of this process could
    do that. The process that does ends with the block, and with this one: then its stdin closes.
    """
    command = [sys.executable, "-S", "-c", TIME_LIMIT, str(seconds), words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield


def not_connected(place: RankInfo) -> TrainingError:
    """The error for ranks that MLX does not connect in time, though they met."""
    address = f" {place.ring[place.rank]}" if place.ring else ""
    return TrainingError(
        f"MLX did not connect rank {place.rank}{address} with the others within {JOIN_SECONDS:.0f} s",
        "let the port through the firewalls; `grpo doctor --hosts FILE` tries the machines one by one",
        trouble="several-machines",
    )


def check_port(place: RankInfo) -> None:
    """Raise TrainingError where the port that MLX is to listen on is taken."""
    if place.ring:
        try:
            listen(place.ring[place.rank]).close()
        except TrainingError as error:
            error.message = f"The port of rank {place.rank} is in use: {error.message}"
            raise


def cannot_connect(place: RankInfo, error: RuntimeError) -> TrainingError:
    """The error for ranks that MLX does not connect."""
    address = f" {place.ring[place.rank]}" if place.ring else ""
    in_use = "error: 98)" in str(error) or "error: 48)" in str(error)  # EADDRINUSE on Linux, macOS
    if in_use:
        return TrainingError(
            f"The port of rank {place.rank}{address} is in use: {error}",
            "another run has it, or one that has not ended yet: wait, or `--starting-port 42323`",
            trouble="several-machines",
        )
    return TrainingError(
        f"MLX cannot connect the ranks by {place.backend}: {error}",
        "`grpo doctor --hosts FILE` tries the machines one by one",
        trouble="several-machines",
    )


def lost(why: str) -> TrainingError:
    """The error of a rank that goes because another one is gone."""
    return TrainingError(
        f"The run ends: {why}",
        "rank 0 saves what it can; `grpo resume RUN` goes on from the newest checkpoint, with as many ranks "
        "as there are then",
        trouble="several-machines",
    )


def farewell(rank: int, error: BaseException | None) -> str:
    """What the others are told of the end of a rank: nothing if all is done."""
    if error is None:
        return ""
    message = error.message if isinstance(error, GrpoError) else f"{type(error).__name__}: {error}"
    prefix = "" if message.startswith("The run ends: ") else f"rank {rank} ({socket.gethostname()}) ended: "
    return (prefix + message.removeprefix("The run ends: ").strip())[:MOST_WORDS]


class Launcher:
    """The process that started this one, and `grpo launch` behind it where it runs on this machine."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.outer = int(os.environ.get(LAUNCHER, "0"))

    def is_gone(self) -> bool:
        """Whether either has ended, so that nobody hears or stops this rank any more."""
        return os.getppid() != self.parent or bool(self.outer and not is_alive(self.outer))


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, who has taken the number over
        return False
    return True


def end(why: str) -> None:
    """End this process from outside its main thread, which waits for ever."""
    print(visible(str(lost(why))), file=sys.__stderr__, flush=True)  # before any that waits for its turn
    os._exit(1)


def as_array(data: bytes) -> "mx.array":
    """Bytes as an array (N,) of uint8."""
    import mlx.core as mx

    return mx.array(memoryview(data))  # type: ignore[arg-type]
