"""Memory check before the first step: does the run fit, and if not, which keys to change.

    needs_of(run).peak / 1e9            # GB
    check_memory(run, budget)           # a notice, or an error if not even one completion fits

Without it, a run that is too large swaps on a Mac, fails after the first long completion on a CUDA card, and
is killed on a CPU. The need is estimated from the model's shape (memory/estimate.py) and compared with the
device's memory.
"""

from typing import Any

from grpo_cli.config.fields import toml_value
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.memory.estimate import FLOAT32, Batch, MemoryNeeds, Shape, estimate, parts, steps_down
from grpo_cli.engine.rollout.shared_prompt import reads_in_groups
from grpo_cli.engine.run import Run
from grpo_cli.errors import TrainingError
from grpo_cli.models.tree import flat

SURELY = 1.25  # an estimate of more than this times the budget is beyond the error of the estimate


def needs_of(run: Run) -> MemoryNeeds | None:
    """Memory needs of a run; None if the model's shape is unknown."""
    shape = Shape.of(run.policy.config)
    return needs_with(run, shape, run.config) if shape else None


def needs_with(run: Run, shape: Shape, config: Config, rows: int | None = None) -> MemoryNeeds:
    """Memory needs of the run with another configuration. `rows`: maximum completions at once."""
    model = run.policy.model
    parameters = list(flat(model.parameters()).values())
    copied = run.sampler.size if config.quantize_for_rollouts else 0
    weights = sum(array.nbytes for array in parameters) + copied
    if run.reference:
        weights += sum(array.nbytes for array in flat(run.reference.model.parameters()).values())
    longest = run.train_prompts.longest()
    slices = run.plan.head is not None
    in_groups = run.policy.plan.sampled == "mixed" and reads_in_groups(model)
    batch = Batch.of(config, longest, run.plan.share_prefix, slices, rows, in_groups)
    width = max((array.dtype.size for array in parameters), default=FLOAT32)
    return estimate(shape, batch, weights, run.optimizer.size, run.policy.trainable_count, width)


def check_memory(run: Run, budget: int | None, config: Config | None = None) -> None:
    """Compare the run's memory needs with `budget`, in bytes, before its first step.

    If they exceed it, a notice lists the keys to change. Raises TrainingError (`Unable to allocate memory …`)
    if not even one completion fits. `config`: the real configuration, if `run` is a smaller dry run.
    """
    config = config or run.config
    shape = Shape.of(run.policy.config)
    if shape is None or budget is None:
        return
    needs = needs_with(run, shape, config)
    if needs.peak <= budget:
        return
    least = needs_with(run, shape, config, rows=1)
    cures = cures_for(run, shape, budget, config)
    if least.peak > SURELY * budget:
        raise TrainingError(
            f"Unable to allocate memory: a single completion needs about {least.peak / 1e9:.1f} GB "
            f"({parts(least)}), and there are {budget / 1e9:.1f} GB",
            cures,
        )
    run.listener(
        events.Notice(
            f"this run needs about {needs.peak / 1e9:.1f} GB ({parts(needs)}), and there are "
            f"{budget / 1e9:.1f} GB; {cures}"
        )
    )


def cures_for(run: Run, shape: Shape, budget: int, config: Config) -> str:
    """The hint for a run that does not fit: keys to change, cheapest first, until it fits."""
    changes: dict[str, Any] = {}
    for step in steps_down(config):
        changes.update(step)
        if "lora_rank" in step:
            break  # the needs of adapters are unknown before they exist, but far smaller
        smaller = config.model_copy(update=changes)
        if needs_with(run, shape, smaller).peak <= budget:
            break
    told = ", ".join(f"`{key} = {toml_value(value)}`" for key, value in changes.items())
    return f"set {told}, or choose a smaller model" if told else "choose a smaller model"
