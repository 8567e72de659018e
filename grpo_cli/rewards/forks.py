"""Confine a process forked by a reward to that reward: it ends when it leaves the block.

    with forks_end():
        function(…)                # may call os.fork(); a child's sys.exit(3) is its exit code

A child that returned to the run would save checkpoints alongside its parent, and its MLX would hang: threads
do not survive a fork.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from grpo_cli.outlet import pass_on_stderr
from grpo_cli.user_error import trace


@contextmanager
def forks_end() -> Iterator[None]:
    """End any process that was forked within the block and leaves it."""
    owner = os.getpid()
    try:
        yield
    except BaseException as error:  # any kind of exception: it continues in the run's own process
        if os.getpid() != owner:
            _end(error)
        raise
    if os.getpid() != owner:
        _end(None)


def _end(error: BaseException | None) -> NoReturn:
    """Exit like the interpreter, but without the atexit handlers, which belong to the run."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        print(trace(error), file=sys.stderr)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    pass_on_stderr()
    os._exit(code & 0xFF)
