"""A command that may be one of several ranks: the first one speaks, the others only where it cannot.

with ranks(config.rank_timeout) as world: run.train(config, listener, world)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from grpo_cli.errors import GrpoError

if TYPE_CHECKING:
    from grpo_cli.distributed.world import World


@contextmanager
def ranks(timeout: float = 0.0) -> Iterator["World"]:
    """The ranks that a launcher started, or the world of one; they part when the block ends.

    An error that another rank tells of, too, ends this one without a word.
    """
    from grpo_cli.distributed.world import join

    world = join(timeout)
    try:
        with world:
            yield world
    except GrpoError as error:
        if world.is_echo:
            raise typer.Exit(error.exit_code) from None
        if world.size > 1:
            error.message = f"rank {world.rank}: {error.message}"
        raise
