"""One peer in this process: `python -m tests.bench.peers.run NAME JOB.json RESULT.json`.

NAME is one of PEERS, or `problems`, which writes the problems into the job and evaluates the untrained model.
"""

import importlib
import json
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench.peers.job import Job

PEERS = {  # name → function
    "grpo": "ours:engine",
    "mlx-lm-lora": "lora_trainer:as_configured",
    "mlx-lm-lora, all rows": "lora_trainer:all_rows",
    "one by one": "by_hand:one_by_one",
    "mlx_lm": "by_hand:batched",
}


def main(name: str, job_file: Path, result_file: Path) -> None:
    """Run it and write its result."""
    job = Job.read(job_file)
    facts = prepared(job.alike or name in ("grpo", "problems"))
    if name == "problems":
        from tests.bench.peers import ours

        job, result = ours.with_problems(job)
        job.write(job_file)
    else:
        module, function = PEERS[name].split(":")
        result = getattr(importlib.import_module(f"tests.bench.peers.{module}"), function)(job)
    result_file.write_text(json.dumps({**result, **facts}))


def prepared(alike: bool) -> dict[str, Any]:
    """Set MLX up as this package does, or leave it as it was installed; the facts of it for the result."""
    versions = {name: metadata.version(name) for name in ("mlx", "mlx-lm")}
    if not alike:
        return {"versions": versions, "blas": {"name": "as installed"}}
    from grpo_cli import device

    blas = device.prepare().blas
    return {"versions": versions, "blas": asdict(blas) if blas else None}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
