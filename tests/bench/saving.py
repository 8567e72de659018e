"""The cost of saving a checkpoint, beside writing the same bytes plainly.

    uv run python -m tests.bench.saving --model DIR

In turn: the checkpoint (weights, optimizer state, tokenizer; fsynced, its checksums taken), and one file of
as many bytes, written and fsynced. The median of the ratios counts: disks differ and so do moments.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a disk with room for three checkpoints")
    chosen = parser.parse_args()
    from grpo_cli import device

    device.prepare()
    import mlx.core as mx
    from mlx.utils import tree_map

    from grpo_cli.config.schema import Config
    from grpo_cli.engine.run_dir.checkpoint import Snapshot, save_checkpoint
    from grpo_cli.engine.run_dir.run_state import RunState
    from grpo_cli.engine.update.optimizer import Optimizer
    from grpo_cli.models.load import load_policy

    config = Config(model_name=chosen.model)
    policy = load_policy(chosen.model, "float32", for_training=True)
    policy.model.unfreeze()
    optimizer = Optimizer(config, policy.model)
    optimizer.rule.state = tree_map(noise, optimizer.rule.state)  # zeros might be written faster
    mx.eval(optimizer.rule.state)
    snapshot = Snapshot(policy=policy, optimizer=optimizer, config=config, state=RunState(step=1), groups=[])
    ratios = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name) / "checkpoint-1"
        for _ in range(chosen.repeats):
            shutil.rmtree(folder, ignore_errors=True)
            started = time.perf_counter()
            save_checkpoint(folder, snapshot)
            saved = time.perf_counter() - started
            size = sum(path.stat().st_size for path in folder.iterdir())
            plain = write_plainly(Path(name) / "plain", size)
            ratios.append(saved / plain)
            print(f"{size / 1e9:.2f} GB: checkpoint {saved:.2f} s, plain {plain:.2f} s, {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


def noise(leaf: Any) -> Any:
    """An array of the same form, of random numbers; small ones, such as the step, as they are."""
    import mlx.core as mx

    return mx.random.normal(leaf.shape) if isinstance(leaf, mx.array) and leaf.size > 1 else leaf


def write_plainly(path: Path, size: int) -> float:
    """Seconds to write and fsync a file of so many bytes."""
    block = os.urandom(1 << 24)
    started = time.perf_counter()
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(block[: min(left, len(block))])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


if __name__ == "__main__":
    main()
