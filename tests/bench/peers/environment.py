"""The peers' own Python environment: made once in a folder, and left alone while it holds what is wanted."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from grpo_cli.errors import GrpoError

TRAINER = "mlx-lm-lora==5.10.2"
BACKENDS = {"mlx-cpu": "cpu", "mlx-cuda-12": "cuda12", "mlx-cuda-13": "cuda13"}  # distribution → mlx's extra


def requirements() -> list[str]:
    """The trainer on this environment's MLX and mlx-lm, and its fast matrix product if there is one."""
    present = {dist.name.lower(): dist.version for dist in metadata.distributions()}
    extra = next((f"[{extra}]" for name, extra in BACKENDS.items() if name in present), "")  # none on a Mac
    wanted = [TRAINER, f"mlx{extra}=={present['mlx']}", f"mlx-lm=={present['mlx-lm']}"]
    blas = "scipy-openblas32"
    return [*wanted, f"{blas}=={present[blas]}"] if blas in present else wanted


def python_of(folder: Path) -> Path:
    """The Python of the environment in a folder, which is made if it is missing or has other packages.

    Raises GrpoError if it cannot be made.
    """
    python, note = folder / "bin/python", folder / "installed.txt"
    wanted = "\n".join(requirements())
    if python.exists() and note.exists() and note.read_text() == wanted:
        return python
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *requirements()],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.returncode}"]
            raise GrpoError(
                f"The peers' environment could not be made in {folder}: {words[-1]}",
                "the first call needs the network and Python's `venv` and `pip`; name another folder with "
                "`--folder DIR`",
            )
    note.write_text(wanted)
    return python
