"""A process that a reward forks stays in the reward: whatever leads out of it ends that process.

    with forks_end():
        function(…)                # may call os.fork(); a child's sys.exit(3) is its exit code

A child that came back to the run would save checkpoints beside its parent, with an MLX that hangs: threads do
not survive a fork.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from grpo_cli.outlet import pass_on_stderr
from grpo_cli.rewards.user_error import trace


@contextmanager
def forks_end() -> Iterator[None]:
    """End a process that began within the block and leaves it."""
    owner = os.getpid()
    try:
        yield
    except BaseException as error:  # of whatever kind: in the run's own process it goes on
        if os.getpid() != owner:
            _end(error)
        raise
    if os.getpid() != owner:
        _end(None)


def _end(error: BaseException | None) -> NoReturn:
    """As the interpreter ends, but for the handlers at exit, which are the run's."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        print(trace(error), file=sys.stderr)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    pass_on_stderr()
    os._exit(code & 0xFF)
