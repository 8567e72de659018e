"""The child's end of `--supervise`: become the parent, and tell it how the run is resumed.

become_supervisor()                              # the parent replaces this process, and starts it again
kind = start_same_device()                       # DeviceLost if a restarted run finds no GPU any more
tell_supervisor(kind, folder, ["--quiet"])       # after a crash: `grpo resume folder --quiet`
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.text import Text

from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.terminal import say, stderr_console
from grpo_cli.errors import ConfigError
from grpo_cli.supervise import END, LAST_DEVICE, PIPE

FLAG = "--supervise"
NO_EFFECT = "note: --supervise has no effect under `grpo launch`: after a crash resume with `grpo resume`"


def become_supervisor() -> None:
    """Replace this process by the parent, which runs the same command without `--supervise`.

    A process that a launcher started as one of several ranks stays as it is: its parent is the launcher.
    """
    from grpo_cli.distributed.topology import find_rank

    place = find_rank(os.environ)
    if place is not None:
        if place.rank == 0:
            say(stderr_console(), Text(NO_EFFECT))
        return
    words = [word for word in sys.argv[1:] if word != FLAG]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "grpo_cli.supervise", *words])


def options(quiet: bool, overrides: Sequence[str] = (), accept_changes: bool = False) -> list[str]:
    """The options with which a restart resumes the run.

    `--set` is needed until a checkpoint has the new values: an edit without it may be refused.
    """
    sets = [word for override in overrides for word in ("--set", override)]
    return [*(["--quiet"] if quiet else []), *(["--accept-changes"] if accept_changes else []), *sets]


def start_same_device(exact_float32: bool = False) -> str:
    """Set up MLX, and tell the parent the kind of device; returns it.

    Raises DeviceLost if a restarted run had a GPU that is gone: the CPU would take its place unasked.
    """
    before = os.environ.get(LAST_DEVICE, "")
    had_gpu = before in ("metal", "cuda")
    try:
        kind = start_device(exact_float32).kind
    except ConfigError as error:  # GRPO_DEVICE asks for it
        if not had_gpu:
            raise
        raise lost(before) from error
    if had_gpu and kind == "cpu":
        raise lost(before)
    tell_supervisor(kind)
    return kind


def lost(kind: str) -> Exception:
    """DeviceLost for a GPU that MLX does not find any more."""
    from grpo_cli.engine.failures import LOST_DEVICE
    from grpo_cli.engine.recovery import DeviceLost

    return DeviceLost(LOST_DEVICE, f"the run had the device `{kind}`, and MLX finds only the CPU now")


def tell_supervisor(kind: str, folder: Path | None = None, words: Sequence[str] = ()) -> None:
    """Tell the parent, if there is one, the kind of device and how the run is resumed: folder and options."""
    pipe = os.environ.get(PIPE, "")
    if pipe.isdecimal():
        message = [kind, *([str(folder.absolute()), *words] if folder else [])]
        with suppress(OSError):
            os.write(int(pipe), b"\0".join(map(os.fsencode, message)) + END)
