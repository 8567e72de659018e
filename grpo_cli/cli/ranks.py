"""Run a command as one of several ranks: only the first prints, the others only if it cannot.

with ranks() as world:
    train(config, listener, world)
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.terminal import say, stderr_console
from grpo_cli.errors import GrpoError

if TYPE_CHECKING:  # messages between ranks are checked by pydantic: too slow for `grpo --help`
    from grpo_cli.distributed.topology import RankInfo
    from grpo_cli.distributed.world import World


@contextmanager
def ranks() -> "Iterator[World]":
    """The ranks started by a launcher, or a world of one; closed at the end of the block.

    An error that another rank reports too ends this one silently.
    """
    from grpo_cli.distributed.join import join
    from grpo_cli.distributed.topology import find_rank

    place = find_rank(os.environ)
    if place is not None:
        share_cores(place)
        start_device()
    world = join(lambda text: say(stderr_console(), Text(f"note: {text}")))
    try:
        with world:
            yield world
    except GrpoError as error:
        if world.is_echo:
            raise typer.Exit(error.exit_code) from None
        if world.rank > 0:
            error.message = f"rank {world.rank}: {error.message}"
        raise


def share_cores(place: "RankInfo") -> None:
    """Divide the cores among ranks on one machine: two that both use all of them are slower than one."""
    share = max(1, (os.cpu_count() or 1) // place.on_this_machine)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(share))  # read when the library is loaded
