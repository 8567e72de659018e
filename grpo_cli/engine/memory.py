"""How much memory a configuration will take, and which keys to change where it is too much.

    needs_of(trainer).peak / 1e9            # GB
    check_memory(trainer, budget)           # a notice, or an error where not a single completion fits

On a Mac too much memory ends in swapping, on a CUDA card in an error after the first long completion, on a
CPU in a killed process: so it is reckoned from the model's shape and compared with what the device has.
Factors were fitted to measured peaks (`python -m tests.bench.memory`); they are within a third of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.stages import Stages
from grpo_cli.errors import TrainingError
from grpo_cli.models.tree import flat

FLOAT32 = 4  # bytes
# Arrays of one forward that wait for the backward, in units of a token's width in its layer.
HIDDEN_KEPT, INTERMEDIATE_KEPT, SCORES_KEPT = 7.0, 3.0, 2.0
LOGITS_KEPT = 3.0  # the logits, scaled, and their gradient
SAMPLING_COPIES = 4.0  # of the logits while a token is drawn
SURELY = 1.25  # an estimate so far above what there is is beyond its own error
CACHE_COPIES = 2.0  # rows are copied when some leave the batch
STEP_COPIES = 2.5  # of the trained weights while the optimizer makes new ones


@dataclass(frozen=True)
class Shape:
    """What of a model's config.json its memory follows from."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_width: int  # channels of all keys of a token in a layer
    vocabulary: int

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Shape | None":
        """The shape in a config.json, or None where it is written in another way."""
        config = {**config, **config.get("text_config", {})}
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            head_width = int(config.get("head_dim") or hidden // heads)
            return Shape(
                int(config["num_hidden_layers"]),
                hidden,
                int(config["intermediate_size"]),
                heads,
                int(config.get("num_key_value_heads") or heads) * head_width,
                int(config["vocab_size"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Batch:
    """What is computed at once, in tokens and rows."""

    rollout_rows: int
    update_prompts: int
    update_rows: int
    prompt_length: int
    new_tokens: int
    shared_prefix: bool = True
    microbatches: int = 1


@dataclass(frozen=True)
class Needs:
    """Bytes by what they are for."""

    weights: int  # the reference's included
    optimizer: int  # its state and float32 copies
    gradients: int
    step: int  # the optimizer's
    rollouts: int
    update: int

    @property
    def update_peak(self) -> int:
        """While the gradient is computed, or the optimizer makes new weights of it."""
        return self.weights + self.optimizer + max(self.gradients + self.update, self.step)

    @property
    def rollout_peak(self) -> int:
        """While completions are sampled."""
        return self.weights + self.optimizer + self.rollouts

    @property
    def peak(self) -> int:
        """Rollouts and the update come one after the other."""
        return max(self.rollout_peak, self.update_peak)


def estimate(shape: Shape, batch: Batch, weights: int, optimizer: int, trained: int, width: int) -> Needs:
    """What training takes. `weights`, `optimizer`: bytes; `trained`: numbers that an update changes;
    `width`: bytes of a number that the model computes with."""
    return Needs(
        weights,
        optimizer,
        (2 if batch.microbatches > 1 else 1) * FLOAT32 * trained,  # the sum, and what is added to it
        int(STEP_COPIES * FLOAT32 * trained),
        rollout_bytes(shape, batch, width),
        update_bytes(shape, batch, width),
    )


def rollout_bytes(shape: Shape, batch: Batch, width: int) -> int:
    """The keys and values of every row, and the logits of a token."""
    length = batch.prompt_length + batch.new_tokens
    cache = CACHE_COPIES * 2 * shape.layers * shape.kv_width * length * width
    return int(batch.rollout_rows * (cache + SAMPLING_COPIES * shape.vocabulary * FLOAT32))


def update_bytes(shape: Shape, batch: Batch, width: int) -> int:
    """What a microbatch's forward keeps for its backward."""
    completion = batch.update_rows * batch.new_tokens
    prompts = batch.update_prompts if batch.shared_prefix else batch.update_rows
    prompt = prompts * batch.prompt_length
    length = batch.prompt_length + batch.new_tokens
    per_token = HIDDEN_KEPT * shape.hidden + INTERMEDIATE_KEPT * shape.intermediate + 4 * shape.kv_width
    scores = SCORES_KEPT * shape.heads * (completion * length + prompt * batch.prompt_length)
    rows = (
        batch.update_rows * 2 * 2 * shape.kv_width * length
    )  # each row's keys and values, and their gradients
    layers = shape.layers * width * (per_token * (completion + prompt) + scores + rows)
    counted = completion if batch.shared_prefix else completion + prompt
    return int(layers + LOGITS_KEPT * FLOAT32 * counted * shape.vocabulary)


def needs_of(stages: Stages) -> Needs | None:
    """What a run's configuration needs, or None for a model whose shape is not known."""
    shape = Shape.of(stages.policy.config)
    return needs_with(stages, shape, stages.config) if shape else None


def needs_with(stages: Stages, shape: Shape, config: Config, rows: int | None = None) -> Needs:
    """What another configuration of the same run would need; `rows`: completions at once, at most."""
    model = stages.policy.model
    parameters = list(flat(model.parameters()).values())
    weights = sum(array.nbytes for array in parameters)
    if stages.reference:
        weights += sum(array.nbytes for array in flat(stages.reference.model.parameters()).values())
    at_once = config.prompts_per_step * config.num_generations
    update_rows = config.batch_size * config.num_generations
    batch = Batch(
        min(at_once, rows or at_once),
        1 if rows == 1 else config.batch_size,
        min(update_rows, rows or update_rows),
        max(len(prompt.ids) for prompt in stages.train_prompts),
        config.max_new_tokens,
        stages.share_prefix,
        2 if rows else config.gradient_accumulation_steps,
    )
    width = max((array.dtype.size for array in parameters), default=FLOAT32)
    return estimate(shape, batch, weights, stages.optimizer.size, stages.policy.trainable_count, width)


def check_memory(stages: Stages, budget: int | None) -> None:
    """Compare what the run needs with what there is (bytes), before its first step.

    Over it, a notice says which keys to change to what. Raises TrainingError (`Unable to allocate
    memory …`) where not even a single completion fits.
    """
    shape = Shape.of(stages.policy.config)
    if shape is None or budget is None:
        return
    needs = needs_with(stages, shape, stages.config)
    if needs.peak <= budget:
        return
    least = needs_with(stages, shape, stages.config, rows=1)
    cures = cures_for(stages, shape, budget)
    if least.peak > SURELY * budget:
        raise TrainingError(
            f"Unable to allocate memory: a single completion needs about {least.peak / 1e9:.1f} GB "
            f"({parts(least)}), and there are {budget / 1e9:.1f} GB",
            cures,
        )
    stages.listener(
        events.Notice(
            f"this run needs about {needs.peak / 1e9:.1f} GB ({parts(needs)}), and there are "
            f"{budget / 1e9:.1f} GB; {cures}"
        )
    )


def parts(needs: Needs) -> str:
    """The largest parts of a need in words."""
    named = {
        "weights": needs.weights,
        "optimizer": needs.optimizer,
        "gradients": needs.gradients,
        "rollouts": needs.rollouts,
        "activations and logits": needs.update,
    }
    largest = sorted(named, key=lambda name: -named[name])[:3]
    return ", ".join(f"{name} {named[name] / 1e9:.1f}" for name in largest)


def cures_for(stages: Stages, shape: Shape, budget: int) -> str:
    """The keys to change, one after the other until it fits, and what it needs then."""
    config = stages.config
    changes: dict[str, Any] = {}
    for step in steps_down(config):
        changes.update(step)
        if "lora_rank" in step:
            break  # what adapters need is not known before they are made, but it is far less
        smaller = config.model_copy(update=changes)
        if needs_with(stages, shape, smaller).peak <= budget:
            break
    told = ", ".join(f"`{key} = {value}`" for key, value in changes.items())
    return f"set {told}, or choose a smaller model" if told else "choose a smaller model"


def steps_down(config: Config) -> Iterator[dict[str, Any]]:
    """Changes that save memory, those that cost least first."""
    if config.batch_size > 1:
        yield {"batch_size": 1, "gradient_accumulation_steps": config.prompts_per_step}
    tokens = config.max_new_tokens
    while tokens > 64:
        tokens //= 2
        yield {"max_new_tokens": tokens}
    if config.num_generations > 4:
        yield {"num_generations": 4}
    if config.lora_rank == 0:
        yield {"lora_rank": 16}
