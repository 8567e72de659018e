"""Snapshots of the embedded model, as checkpoints save them."""

from grpo_cli.config.schema import Config
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.run_state import RunState
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.models.load import load_policy


def snapshot(step: int) -> Snapshot:
    """The embedded model after a step."""
    policy = load_policy("tiny")
    return Snapshot(
        policy=policy,
        optimizer=Optimizer(Config(), policy.model),
        config=Config(),
        state=RunState(step=step),
        groups=[],
    )
