"""Memory check before the first step: does the run fit, and if not, which keys to change.

    needs_of(run).peak / 1e9            # GB
    check_memory(run, budget)           # a notice, or an error if not even one completion fits

Without it, a run that is too large swaps on a Mac, fails after the first long completion on a CUDA card, and
is killed on a CPU. The need is estimated from the model's shape (estimate.py) and compared with the device's
memory (verdict.py). MLX's cache of freed memory gets what is left (cache.py).
"""

from dataclasses import replace

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.judge import Judge, judge_in
from grpo_cli.engine.memory.cache import CacheRoom, cache_limit
from grpo_cli.engine.memory.estimate import (
    FLOAT32,
    BatchSizes,
    MemoryNeeds,
    Shape,
    estimate,
    judging_bytes,
    lora_numbers,
    parts,
)
from grpo_cli.engine.memory.verdict import MemoryVerdict, judge
from grpo_cli.engine.rollout.shared_prompt import reads_in_groups
from grpo_cli.engine.run import Run
from grpo_cli.errors import TrainingError
from grpo_cli.models.tree import flat


def needs_of(run: Run) -> MemoryNeeds | None:
    """Memory needs of a run; None if the model's shape is unknown."""
    shape = Shape.of(run.policy.config, device.prepare().kind == "cpu")
    return needs_with(run, shape, run.config) if shape else None


def needs_with(run: Run, shape: Shape, config: Config, rows: int | None = None) -> MemoryNeeds:
    """Memory needs of the run with another configuration. `rows`: maximum completions at once."""
    model = run.policy.model
    parameters = flat(model.parameters())
    copied = run.sampler.size if config.quantize_for_rollouts else 0
    weights = sum(array.nbytes for array in parameters.values()) + copied
    if run.reference:
        weights += sum(array.nbytes for array in flat(run.reference.model.parameters()).values())
    longest = run.train_prompts.longest()
    slices = run.forward_plan.head is not None
    in_groups = run.policy.plan.sampled == "mixed" and reads_in_groups(model)
    batch = BatchSizes.of(config, longest, run.forward_plan.share_prefix, slices, rows, in_groups)
    width = max((array.dtype.size for array in parameters.values()), default=FLOAT32)
    trained, optimizer = run.policy.trainable_count, run.optimizer.size
    if config.lora_rank and run.policy.lora is None:  # a way out: adapters instead of all weights
        shapes = {name: array.shape for name, array in parameters.items()}
        adapters = lora_numbers(shapes, config.lora_rank, config.lora_layers)
        optimizer, trained = optimizer * adapters // max(1, trained), adapters
        weights += FLOAT32 * adapters
    judge = judge_in(run.rewards)
    weights += judge.size if judge else 0
    return replace(
        estimate(shape, batch, weights, optimizer, trained, width), judging=judging_of(judge, config)
    )


def judging_of(judge: Judge | None, config: Config) -> int:
    """Bytes that a judge needs beside its weights; 0 without one, or if its shape is unknown."""
    shape = Shape.of(judge.policy.config) if judge else None
    if judge is None or shape is None:
        return 0
    arrays = flat(judge.policy.model.parameters()).values()
    return judging_bytes(shape, config, max(array.dtype.size for array in arrays))


def check_memory(run: Run, budget: int | None, config: Config | None = None) -> None:
    """Compare the run's memory needs with `budget`, in bytes, before its first step.

    If they exceed it, a notice lists the keys to change. Raises TrainingError (`Unable to allocate memory …`)
    if not even one completion fits. `config`: the real configuration, if `run` is a smaller dry run.
    """
    shape = Shape.of(run.policy.config, device.prepare().kind == "cpu")
    if shape is None or budget is None:
        return
    config = config or run.config
    if run.policy.lora:  # of a warm start, too, whose shape no key names
        config = config.model_copy(update={"lora_rank": run.policy.lora.rank})
    verdict = judge(config, budget, lambda changed, rows: needs_with(run, shape, changed, rows))
    if verdict.fits:
        return
    there = f"there are {budget / 1e9:.1f} GB"
    if verdict.is_impossible:
        least = verdict.least
        raise TrainingError(
            f"Unable to allocate memory: a single completion needs about {least.peak / 1e9:.1f} GB "
            f"({parts(least)}), and {there}",
            cure_of(verdict),
        )
    needs = verdict.needs
    told = f"this run needs about {needs.peak / 1e9:.1f} GB ({parts(needs)}), and {there}"
    run.listener(events.Notice(f"{told}; {cure_of(verdict)}"))


def limit_cache(run: Run, budget: int | None) -> None:
    """Limit MLX's cache for the run, and remember its needs. `budget`: the device's memory, in bytes.

    A notice reports a `cache_limit_gb` that does not fit beside the run.
    """
    needs = needs_of(run)
    run.cache_room = CacheRoom(needs, budget)
    limit = cache_limit(run.config, device.prepare().kind, needs, budget)
    if limit is None:
        return
    device.set_cache_limit(limit)
    if run.config.cache_limit_gb and needs and budget and needs.peak <= budget < needs.peak + limit:
        left = max(0.1, int((budget - needs.peak) / 1e8) / 10)
        run.listener(
            events.Notice(
                f"this run needs about {needs.peak / 1e9:.1f} GB, and with MLX's cache of up to "
                f"{limit / 1e9:.1f} GB more than the {budget / 1e9:.1f} GB there are: "
                f"`cache_limit_gb = {left}` fits"
            )
        )


def cure_of(verdict: MemoryVerdict) -> str:
    """The hint for a run that does not fit: keys to change, and whether they suffice."""
    lines = ", ".join(f"`{line}`" for line in verdict.lines)
    if verdict.suffices:
        return f"set {lines}"
    if verdict.changed is None:
        return "choose a smaller model"
    still = f"with {lines} it still needs about {verdict.changed.peak / 1e9:.1f} GB"
    return f"choose a smaller model: {still}"
