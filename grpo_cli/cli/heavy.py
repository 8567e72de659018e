"""Set up MLX before anything imports it, and import what computes."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from grpo_cli.cli.doing import erase
from grpo_cli.cli.terminal import say, stderr_console

if TYPE_CHECKING:
    from grpo_cli.device import Device


def start_device(exact_float32: bool = False) -> "Device":
    """Set up MLX for this machine, and warn if its matrix product stays slow."""
    from grpo_cli import device

    if exact_float32:
        device.require_exact_float32()
    prepared = device.prepare()
    if sys.platform == "linux" and prepared.blas and prepared.blas.name == "mlx":
        text = f"! matrix products are slow, computed by MLX's own BLAS: {prepared.blas.note}"
        erase()
        say(stderr_console(), Text(text, style="yellow"))
    return prepared


@contextmanager
def importing() -> Iterator[None]:
    """Import the engine within the block, without Python's garbage collector.

    Modules stay to the end, so it would walk their hundreds of thousands of objects for nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
