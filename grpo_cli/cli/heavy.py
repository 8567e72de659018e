"""Where a command crosses from light to heavy: MLX is set up before anything imports it."""

from typing import TYPE_CHECKING

from rich.text import Text

from grpo_cli.cli.terminal import say, stderr_console

if TYPE_CHECKING:
    from grpo_cli.device import Device


def start_device() -> "Device":
    """Set up MLX for this machine, and say so where its matrix product stays slow."""
    from grpo_cli import device

    prepared = device.prepare()
    if prepared.blas and prepared.blas.note:
        say(stderr_console(), Text(f"! {prepared.blas.note}", style="yellow"))
    return prepared
