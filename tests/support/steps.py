"""The stages of a step, one by one."""

from grpo_cli.engine.collect_rollouts import collect_rollouts, set_advantages
from grpo_cli.engine.run import Run
from grpo_cli.types import RolloutGroup


def scored_groups(run: Run, position: int = 0) -> list[RolloutGroup]:
    """The next step's groups: completions with their rewards and advantages."""
    groups = collect_rollouts(run, position).chosen()
    set_advantages(groups, run.config)
    return groups
