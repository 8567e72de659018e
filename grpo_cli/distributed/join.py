"""Join the other ranks that a launcher started: find this rank's place, meet the others, connect MLX.

    with join() as world: ...            # ALONE without a launcher

The ranks meet over links of their own first, since MLX connects without a time limit and names no rank that
is missing.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpo_cli.distributed.links import listen, open_links
from grpo_cli.distributed.topology import LAUNCHER, RankInfo, find_rank
from grpo_cli.distributed.watch import Watch
from grpo_cli.distributed.world import ALONE, World, farewell, lost
from grpo_cli.errors import GrpoError, TrainingError
from grpo_cli.foreign_text import visible

JOIN_SECONDS = 600.0  # time limit for all ranks to arrive; a busy machine takes minutes to start Python


def join(on_wait: Callable[[str], None] = lambda _: None) -> World:
    """Join the other ranks that the launcher started; ALONE without a launcher.

    `on_wait` gets a message whenever the wait becomes long. Raises TrainingError if the ranks do not meet
    within JOIN_SECONDS, ConfigError for an unknown launcher.
    """
    place = find_rank(os.environ)
    if place is None:
        return ALONE
    launcher = Launcher()
    links = open_links(place, JOIN_SECONDS, on_wait)
    watch = Watch(place.rank, place.size, links, socket.gethostname(), end, launcher.is_gone)
    try:
        check_port(place)
        # A rank that cannot connect reports it before the others wait for it.
        trouble = watch.meet(JOIN_SECONDS, on_wait)
        if trouble:
            raise lost(trouble)
        connect(place)
    except GrpoError as error:
        watch.close(farewell(place.rank, error))
        raise
    return World(place.rank, place.size, watch)


def connect(place: RankInfo) -> None:
    """Let MLX connect the ranks once all have met. Raises TrainingError if that fails."""
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
    """Kill this process, with `words` on stderr, if the block takes longer.

    MLX connects without a time limit and holds Python's GIL meanwhile, so no thread of this process could do
    that. The watchdog process ends with the block, and with this process: then its stdin closes.
    """
    command = [sys.executable, "-S", "-c", TIME_LIMIT, str(seconds), words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield


def not_connected(place: RankInfo) -> TrainingError:
    """The error for ranks that have met but that MLX does not connect in time."""
    address = f" {place.ring[place.rank]}" if place.ring else ""
    return TrainingError(
        f"MLX did not connect rank {place.rank}{address} with the others within {JOIN_SECONDS:.0f} s",
        "let the port through the firewalls; `grpo doctor --hosts FILE` tries the machines one by one",
        trouble="several-machines",
    )


def check_port(place: RankInfo) -> None:
    """Raise TrainingError if the port that MLX needs is in use."""
    if place.ring:
        try:
            listen(place.ring[place.rank]).close()
        except TrainingError as error:
            error.message = f"The port of rank {place.rank} is in use: {error.message}"
            raise


def cannot_connect(place: RankInfo, error: RuntimeError) -> TrainingError:
    """The error for ranks that MLX cannot connect."""
    address = f" {place.ring[place.rank]}" if place.ring else ""
    in_use = "error: 98)" in str(error) or "error: 48)" in str(error)  # EADDRINUSE on Linux, macOS
    if in_use:
        return TrainingError(
            f"The port of rank {place.rank}{address} is in use: {error}",
            "another run uses it, or an earlier run has not ended yet: wait, or use `--starting-port 42323`",
            trouble="several-machines",
        )
    return TrainingError(
        f"MLX cannot connect the ranks by {place.backend}: {error}",
        "`grpo doctor --hosts FILE` tries the machines one by one",
        trouble="several-machines",
    )


class Launcher:
    """The parent process and, if it runs on this machine, `grpo launch` behind it."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.outer = int(os.environ.get(LAUNCHER, "0"))

    def is_gone(self) -> bool:
        """True if either has exited, so that nobody can hear or stop this rank any more."""
        return os.getppid() != self.parent or bool(self.outer and not is_alive(self.outer))


def is_alive(pid: int) -> bool:
    """True if a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, which reuses the id
        return False
    return True


def end(why: str) -> None:
    """End this process from outside its main thread, which waits forever."""
    print(visible(str(lost(why))), file=sys.__stderr__, flush=True)  # before anything that waits for its turn
    os._exit(1)
