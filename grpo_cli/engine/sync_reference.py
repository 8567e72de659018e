"""Synchronization of the reference policy: move it towards the policy every few steps.

    sync_reference(run, step)       # after the update of each step; does nothing unless one is due

Every ref_model_sync_steps steps reference ← α · policy + (1 − α) · reference, with α = ref_model_mixup_alpha
(TR-DPO, Gorbatovski et al. 2024, arXiv:2404.09656, eq. 8 and 9; TRL's `sync_ref_model`). The KL term then
holds the policy near where it was lately instead of near the initial model.

Departs from TRL: rollouts that are reused after a synchronization get the new reference's logprobs, so that a
resumed run computes the same.
"""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_unflatten

from grpo_cli.config.schema import Config
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import REFERENCE
from grpo_cli.engine.update.optimizer import at, handfuls, restored
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat


def sync_reference(run: Run, step: int) -> None:
    """Mix the policy into the reference if that is due after `step`."""
    if run.reference is None or not is_due(run.config, step):
        return
    for arrays in mixed(run.reference, run.trained_weights(), run.config.ref_model_mixup_alpha):
        if run.world.size > 1:
            arrays = run.world.broadcast_tree(arrays)  # the ranks' weights may differ by rounding
        run.reference.model.update(tree_unflatten(list(arrays.items())))
        mx.eval(arrays)
    for part in run.buffer.waiting:
        part.batches = None  # they hold the old reference's logprobs


def is_due(config: Config, step: int) -> bool:
    """True if the reference is synchronized after `step`."""
    return config.sync_ref_model and step % config.ref_model_sync_steps == 0


def mixed(reference: Policy, weights: dict[str, mx.array], alpha: float) -> Iterator[dict[str, mx.array]]:
    """The new arrays of the reference by name, a few at a time, computed in float32.

    `weights`: the policy's, float32 copies if it has some.
    """
    for names in handfuls(weights):
        old = {name: at(reference.model, name) for name in names}
        yield {
            name: (alpha * weights[name] + (1.0 - alpha) * array.astype(mx.float32)).astype(array.dtype)
            for name, array in old.items()
        }


def restore_reference(reference: Policy, checkpoint: Path) -> None:
    """Set the reference to that of a checkpoint. Raises CheckpointError if it is of another model."""
    arrays: dict[str, mx.array] = mx.load(str(checkpoint / REFERENCE))  # type: ignore[assignment]
    parameters = restored(arrays, flat(reference.model.parameters()), "reference")
    reference.model.update(tree_unflatten(list(parameters.items())))
    mx.eval(reference.model.parameters())
