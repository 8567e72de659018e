"""A command that may be one of several ranks: the first one speaks, the others only where it cannot.

with ranks() as world:
    run.train(config, listener, world)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from grpo_cli.cli.heavy import start_device
from grpo_cli.distributed.world import World, is_one_of_several, join
from grpo_cli.errors import GrpoError


@contextmanager
def ranks() -> Iterator[World]:
    """The ranks that a launcher started, or the world of one; they part when the block ends.

    An error that another rank tells of, too, ends this one without a word.
    """
    if is_one_of_several():
        start_device()
    world = join()
    try:
        with world:
            yield world
    except GrpoError as error:
        if world.is_echo:
            raise typer.Exit(error.exit_code) from None
        if world.rank > 0:
            error.message = f"rank {world.rank}: {error.message}"
        raise
