"""Both ends of `--supervise` in the command line: become the parent, and tell it the run's folder."""

import os
import sys
from contextlib import suppress
from pathlib import Path

FLAG = "--supervise"


def become_supervisor() -> None:
    """Replace this process by the parent, which runs the same command without `--supervise`.

    A process that a launcher started as one of several ranks stays as it is: its parent is the launcher.
    """
    from grpo_cli.distributed.topology import find_rank

    if find_rank(os.environ) is not None:
        return
    words = [word for word in sys.argv[1:] if word != FLAG]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "grpo_cli.supervise", *words])


def tell_supervisor(folder: Path) -> None:
    """Tell the parent the run's folder, if this process has one."""
    from grpo_cli.supervise import FOLDER_PIPE

    pipe = os.environ.get(FOLDER_PIPE, "")
    if pipe.isdecimal():
        with suppress(OSError):
            os.write(int(pipe), os.fsencode(folder.absolute()) + b"\n")
