"""The stages of a step, one by one."""

from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.engine.collect_rollouts import collect_rollouts, set_advantages
from grpo_cli.engine.grpo.importance_sampling import Correction
from grpo_cli.engine.run import Run
from grpo_cli.engine.update.chunked_logits import Head
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.objective import Objective
from grpo_cli.models.batch_plan import RowsTogether
from grpo_cli.types import RolloutGroup


def scored_groups(run: Run, position: int = 0) -> list[RolloutGroup]:
    """The next step's groups: completions with their rewards and advantages."""
    groups = collect_rollouts(run, position).chosen()
    set_advantages(groups, run.config)
    return groups


def objective_of(
    loss_type: str,
    temperature: float,
    clip_eps: float,
    clip_eps_high: float,
    kl_coeff: float,
    share_prefix: bool = True,
    *,
    head: Head | None = None,
    recompute: bool = False,
    correction: Correction | None = None,
    together: RowsTogether = "mixed",
    **keys: Any,
) -> Objective:
    """An objective of these values, the rest the configuration's defaults."""
    if correction is not None:
        keys |= {"quantize_for_rollouts": True, "importance_sampling_mode": correction.mode}
        keys |= {"importance_sampling_cap": correction.cap}
    config = Config(
        loss_type=loss_type,
        temperature=temperature,
        clip_eps=clip_eps,
        clip_eps_high=clip_eps_high,
        kl_coeff=kl_coeff,
        **keys,
    )
    return Objective(config, ForwardPlan(share_prefix, head, recompute, together))
