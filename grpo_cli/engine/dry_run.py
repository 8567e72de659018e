"""One tiny step of a run, to find problems before it is started; saves nothing.

line = dry_run(config, listener)      # load everything, make one tiny step; the step's log line
"""

import time
from typing import Any

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.collect_rollouts import collect_rollouts
from grpo_cli.engine.memory.check import check_memory
from grpo_cli.engine.metrics import step_metrics
from grpo_cli.engine.ranks.same_setup import check_same_setup, settings
from grpo_cli.engine.rollout.buffer import DrawnGroups
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.folder import refuse_existing_run
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.errors import TrainingError
from grpo_cli.types import RolloutGroup


def dry_run(
    config: Config, listener: events.Listener = events.silent, world: World = ALONE
) -> dict[str, Any]:
    """Load everything as `train` does, and make one tiny step; saves nothing, returns the step's log line.

    Raises the errors of `train`, and TrainingError if the step makes no update.
    """
    if world.is_first:
        refuse_existing_run(config.run_dir)
    check_same_setup(world, settings(config))
    run = prepare(config.model_copy(update=tiny(config)), listener, world=world)
    check_memory(run, device.memory_budget(device.prepare()), config)
    started = time.perf_counter()
    try:
        drawn, groups, update = tiny_step(run, is_on_policy=True)
    finally:
        run.close()
    if "skipped" in update:
        raise TrainingError(
            f"NaN gradient encountered in the dry run: NaN or infinite {update['skipped']}",
            'nothing was changed; set `dtype = "float32"`, or choose another model',
            trouble="nan-gradient",
        )
    if not update["grad_norm"]:
        raise TrainingError(
            "The dry run's step has no gradient: nothing in the model would learn",
            "check `lora_layers` and the other keys that decide which weights are trained",
            trouble="nothing-to-learn",
        )
    epoch = drawn.position / len(run.train_prompts)
    return step_metrics(1, epoch, groups, update, drawn, False, time.perf_counter() - started)


def tiny(config: Config) -> dict[str, Any]:
    """Keys for a small step: two prompts with two short completions each.

    The short completions are truncated, so options that exclude truncated completions are off.
    """
    return {
        "batch_size": min(2, config.batch_size),
        "gradient_accumulation_steps": 1,
        "num_generations": min(2, config.num_generations),
        "max_new_tokens": min(16, config.max_new_tokens),
        "steps_per_generation": 1,
        "dynamic_sampling": False,
        "mask_truncated_completions": False,
        "soft_overlong_tokens": 0,
    }


def tiny_step(run: Run, is_on_policy: bool = False) -> tuple[DrawnGroups, list[RolloutGroup], dict[str, Any]]:
    """Sample, score and update once: the drawn groups, the chosen ones, and the update's metrics.

    The advantages are constants, so that there is a gradient whatever the rewards of such short completions
    are. They do not cancel if two completions are the same.
    """
    drawn = collect_rollouts(run, position=0)
    groups = drawn.chosen()
    for group in groups:
        for index, rollout in enumerate(group.rollouts):
            rollout.advantage = 1.0 if index % 2 == 0 else -0.5
    return drawn, groups, update_policy(run, 1, make_batches(run, groups), is_on_policy)
