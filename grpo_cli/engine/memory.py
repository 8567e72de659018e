"""How much memory a configuration will take, and which keys to change where it is too much.

    needs = estimate(Shape.of(policy.config), sizes, lengths)
    needs.peak / 1e9            # GB

On a Mac too much memory ends in swapping, on a CUDA card in an error after the first long completion, on a
CPU in a killed process: so it is reckoned from the model's shape and compared with what the device has.
Factors were fitted to measured peaks (`python -m tests.bench.memory`); they are within a third of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_cli.engine.stages import Stages
from grpo_cli.models.tree import flat

FLOAT32 = 4  # bytes
# Arrays of one forward that wait for the backward, in units of a token's width in its layer.
HIDDEN_KEPT, INTERMEDIATE_KEPT, SCORES_KEPT = 8.0, 3.0, 2.0
LOGITS_KEPT = 3.0  # the logits, scaled, and their gradient
SAMPLING_COPIES = 4.0  # of the logits while a token is drawn
CACHE_COPIES = 2.0  # rows are copied when some leave the batch


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
    rollouts: int
    update: int

    @property
    def peak(self) -> int:
        """Rollouts and the update come one after the other."""
        return self.weights + self.optimizer + max(self.rollouts, self.gradients + self.update)


def estimate(shape: Shape, batch: Batch, weights: int, optimizer: int, trained: int, width: int) -> Needs:
    """What training takes. `weights`, `optimizer`: bytes; `trained`: numbers that an update changes;
    `width`: bytes of a number that the model computes with."""
    return Needs(
        weights,
        optimizer,
        (2 if batch.microbatches > 1 else 1) * FLOAT32 * trained,  # the sum, and what is added to it
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
    if shape is None:
        return None
    config = stages.config
    rows = stages.rollout_limit.rows or config.prompts_per_step * config.num_generations
    update_rows = config.batch_size * config.num_generations
    batch = Batch(
        rows,
        config.batch_size,
        min(update_rows, stages.update_limit.rows or update_rows),
        max(len(prompt.ids) for prompt in stages.train_prompts),
        config.max_new_tokens,
        stages.share_prefix,
        config.gradient_accumulation_steps,
    )
    return _needs(stages, shape, batch)


def _needs(stages: Stages, shape: Shape, batch: Batch) -> Needs:
    parameters = list(flat(stages.policy.model.parameters()).values())
    weights = sum(array.nbytes for array in parameters)
    if stages.reference:
        weights += sum(array.nbytes for array in flat(stages.reference.model.parameters()).values())
    optimizer = sum(array.nbytes for array in stages.optimizer.arrays().values())
    width = max((array.dtype.size for array in parameters), default=FLOAT32)
    return estimate(shape, batch, weights, optimizer, stages.policy.trainable_count, width)
