"""Notices for a model that is computed in a slower way than others: no fast path is off in silence."""

import mlx.nn as nn

from grpo_cli import device
from grpo_cli.engine.rollout.shared_prompt import reads_in_groups
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.caches import has_only_keys

NO_LAYERS = (
    "grad_checkpoint: this model calls its layers in an unusual way, so prompts are computed once per "
    "completion, which takes more time"
)
NO_SHARED_PROMPT = (
    "this model's cache cannot share a prompt in training: whole sequences are trained on, which takes more "
    "time"
)
NO_GROUPS = (
    "this model's attention cannot be grouped: each completion holds its own copy of the prompt while it is "
    "sampled, which takes more time and memory for long prompts"
)
NO_HEAD = (
    "this model's output layer cannot be separated: the logits of a whole microbatch are computed at once, "
    "which takes more memory"
)
ROWS = {"equal": "of prompts of one length", "single": "one by one"}


def slower_ways(
    model: nn.Module, plan: BatchPlan, forward: ForwardPlan, may_share: bool, other_experts: float | None
) -> list[str]:
    """Notices for every fast path that is off. `plan`: by trying; `forward`: the updates'.

    `may_share`: whether the configuration allows prompts to be shared in training. `other_experts`: share of
    a trial's tokens for which sampler and loss choose other experts; None without experts.
    """
    told = []
    if plan.sampled in ROWS:
        told.append(
            "this model's cache cannot hold rows of unlike length: completions are sampled "
            f"{ROWS[plan.sampled]}, which takes more time"
        )
    if may_share and not plan.share_prefix:
        told.append(NO_SHARED_PROMPT)
    has_keys = has_only_keys(model, windows=True)
    if plan.sampled == "mixed" and has_keys and device.prepare().kind == "cpu" and not reads_in_groups(model):
        told.append(NO_GROUPS)
    if forward.head is None:
        told.append(NO_HEAD)
    if other_experts:
        told.append(
            f"sampler and loss choose other experts for {other_experts:.1%} of a trial's tokens (rounding): "
            '`ratio_deviation` in the log shows the effect; dtype = "float32" avoids it'
        )
    return told
