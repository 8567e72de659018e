"""The doctor's findings for a run's checkpoints, and a first damage."""

import json
from pathlib import Path

from grpo_cli.doctor.findings import Finding
from tests.support.doctor_findings import Here, look

SUBJECT = ("checkpoint-files", "optimizer-state", "resumable")


def of_run(run: Path, *names: str) -> list[Finding]:
    return look(Here(run=run), *(names or SUBJECT))


def rehashed(folder: Path) -> None:
    """The manifest made right for changed files: damage that no checksum tells."""
    from grpo_cli.engine.run_dir.checkpoint import write_manifest

    step = json.loads((folder / "manifest.json").read_text())["step"]
    (folder / "manifest.json").unlink()
    write_manifest(folder, step)


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-10] ^= 1
    (folder / "model.safetensors").write_bytes(content)
