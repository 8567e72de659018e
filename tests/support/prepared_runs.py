"""A run before its first update, the movement of its weights by an update, and how two movements differ."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.engine import setup
from grpo_cli.engine.run import Run
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.gradient import global_norm
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.models.tree import flat
from tests.support.small_runs import small
from tests.support.steps import scored_groups

Weights = dict[str, mx.array]


def prepared(folder: Path, **changes: Any) -> tuple[Run, list[Microbatch]]:
    """A run of the embedded model before its first update, and that update's microbatches.

    Plain SGD without schedule, so that weights move by rate · gradient; hot, so that there is one;
    advantages are 1 and −1.
    """
    settings = {
        "dtype": "float32",
        "max_train_samples": 64,
        "temperature": 3.0,
        "batch_size": 2,
        "num_generations": 2,
        "max_new_tokens": 8,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 1e9,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "max_steps": 4,
    }
    run = setup.prepare(small(folder, **(settings | changes)))
    mx.random.seed(7)
    groups = scored_groups(run)
    for one in groups:
        for index, item in enumerate(one.rollouts):
            item.advantage = 1.0 if index % 2 == 0 else -1.0
    return run, make_batches(run, groups)


def movement(run: Run, batches: list[Microbatch], step: int = 1) -> Weights:
    """The change of every weight by one update."""
    before = flat(run.policy.model.trainable_parameters())
    update_policy(run, step, batches)
    after = flat(run.policy.model.trainable_parameters())
    return {name: after[name] - before[name] for name in before}


def distance(a: Weights, b: Weights, scale: float = 1.0) -> float:
    """Norm of a − scale · b, relative to the norm of a."""
    assert a.keys() == b.keys()
    return global_norm({name: a[name] - scale * b[name] for name in a}) / global_norm(a)
