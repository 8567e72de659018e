"""Set up MLX before anything imports it."""

import sys
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
