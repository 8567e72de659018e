"""Memory estimate of training from a model's shape: arithmetic only, without MLX.

    estimate(shape, batch, weights, optimizer, trained, width).peak / 1e9      # GB

The factors were fitted to measured peaks (`python -m tests.bench.memory`). Estimates are within a third of
these.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.cpu.block_sizes import COPIES, is_blockwise, scores_at_once
from grpo_cli.engine.memory.state_layers import STATE_COPIES, STATE_STARTS, States, states_in

FLOAT32 = 4  # bytes
# Arrays of one forward stored for the backward, in units of a token's width in its layer.
HIDDEN_KEPT, INTERMEDIATE_KEPT, SCORES_KEPT = 7.0, 2.5, 2.0
LAYERS_AT_ONCE = 2  # with gradient checkpointing: a layer's forward and its gradients
LOGITS_KEPT = 3.0  # the logits, scaled, and their gradient
LOGITS_AT_ONCE = 1 << 25  # more logits are computed in slices (chunked_logits.py): 134 MB in float32
ENTROPY_KEPT = 4.5  # additional copies of the logits with an entropy bonus
SAMPLING_COPIES = 4.0  # copies of the logits while a token is sampled
CACHE_COPIES = 2.0  # the cache's rows are copied when some leave the batch
OWN_COPIES = 1.3  # copies of the rows' own keys and values, which grow layer by layer
OWN_STEP = 64  # tokens that a row's own keys and values grow by (shared_prompt.py)
PROMPT_TOKENS = 2048  # prompt tokens per forward (continuous_batch.py)
READING_KEPT = 2.0  # scores and feed-forward arrays of a layer during the prefill
LEAST_BUDGET = 512  # tokens of a microbatch; smaller budgets save little
# Float32 numbers per trained parameter; muon has 2 for embeddings and head only.
OPTIMIZER_STATES = {"adamw": 2, "adam": 2, "lion": 1, "sgd": 1, "muon": 2}
JUDGE_ROWS = 8  # questions that a judge answers at once
JUDGE_QUESTION = 200  # tokens of the question around the prompt and the completions
STEP_COPIES = 1.5  # copies of the trained weights: their gradient, and the largest array during its update


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes in a model's config.json that determine its memory."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_width: int  # key channels of a token in one layer, over all key heads
    vocabulary: int
    states: States | None = None  # layers that keep a state
    keeps_scores: bool = True  # all scores of attention; False: a block in float32 (cpu/attention.py)

    def has_blocks(self, width: int) -> bool:
        """True if numbers of so many bytes have their scores in blocks."""
        return not self.keeps_scores and width == FLOAT32

    @property
    def attention_layers(self) -> int:
        """Layers with keys and values."""
        return self.layers - (self.states.replaced if self.states else 0)

    @staticmethod
    def of(config: Mapping[str, Any], on_cpu: bool = True) -> "Shape | None":
        """The shape in a config.json; None if it uses other keys."""
        config = {**config, **config.get("text_config", {})}
        try:
            layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
            states = states_in(config, layers, on_cpu)
            has_attention = states is None or states.replaced < layers
            heads = int(config["num_attention_heads"]) if has_attention else 0
            head_width = int(config.get("head_dim") or hidden // heads) if has_attention else 0
            return Shape(
                layers=layers,
                hidden=hidden,
                intermediate=int(config["intermediate_size"]) if has_attention else 0,
                heads=heads,
                kv_width=int(config.get("num_key_value_heads") or heads) * head_width,
                vocabulary=int(config["vocab_size"]),
                states=states,
                keeps_scores=not (on_cpu and is_blockwise(config)),
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """Sizes of the largest batches of sampling and update, in tokens and rows."""

    rollout_rows: int
    update_prompts: int
    update_rows: int
    prompt_length: int
    new_tokens: int
    shared_prefix: bool = True
    microbatches: int = 1
    entropy_bonus: bool = False
    slices: bool = True  # logits are computed for completions only, and in slices above LOGITS_AT_ONCE
    checkpoint: bool = False  # layers are recomputed in the backward, one at a time
    # Prompts whose cache all completions share (shared_prompt.py); 0 = every row has its own copy
    rollout_prompts: int = 0

    @staticmethod
    def of(
        config: Config,
        prompt_length: int,
        shared_prefix: bool,
        slices: bool,
        rows: int | None = None,
        in_groups: bool = False,
    ) -> "BatchSizes":
        """The batch sizes of a configuration. `rows`: maximum completions at once. `in_groups`: completions
        share one copy of their prompt's cache while they are sampled (shared_prompt.py)."""
        at_once = config.prompts_per_generation * config.num_generations
        update_prompts, update_rows = updated_at_once(config, prompt_length, shared_prefix)
        is_cut = rows or update_rows < config.prompts_per_step * config.num_generations
        rollout_rows = min(at_once, rows or at_once)
        return BatchSizes(
            rollout_rows=rollout_rows,
            update_prompts=1 if rows == 1 else update_prompts,
            update_rows=min(update_rows, rows or update_rows),
            prompt_length=prompt_length,
            new_tokens=config.max_completion_tokens,
            shared_prefix=shared_prefix,
            microbatches=2 if is_cut else 1,
            entropy_bonus=config.entropy_coeff > 0,
            slices=slices,
            checkpoint=config.grad_checkpoint,
            rollout_prompts=-(-rollout_rows // config.num_generations) if in_groups else 0,
        )


def updated_at_once(config: Config, prompt_length: int, shared_prefix: bool) -> tuple[int, int]:
    """Prompts and completions of an update's largest microbatch, if all completions have full length.

    With a budget of tokens, shorter completions mean more rows but not more tokens.
    """
    group, most, budget = config.num_generations, config.max_completion_tokens, config.microbatch_tokens
    if not budget:
        return config.batch_size, config.batch_size * group
    read = prompt_length - 1  # its last token is the first input of its completions
    if shared_prefix:
        prompts = min(config.prompts_per_step, -(-budget // (read + group * most)))
        rows = (budget - prompts * read) // most
    else:
        prompts, rows = config.prompts_per_step, budget // (read + most)
    rows = max(1, min(rows, prompts * group))
    return min(prompts, rows), rows


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """Memory needs in bytes, by purpose."""

    weights: int  # including those of the reference, of a quantized copy and of a judge
    optimizer: int  # optimizer state and float32 copies
    gradients: int
    step: int  # temporary arrays of the optimizer step
    rollouts: int
    update: int
    judging: int = 0

    @property
    def update_peak(self) -> int:
        """Peak during the gradient computation or the optimizer step, in bytes."""
        return self.weights + self.optimizer + max(self.gradients + self.update, self.step)

    @property
    def rollout_peak(self) -> int:
        """Peak while completions are sampled, or judged after that, in bytes."""
        return self.weights + self.optimizer + max(self.rollouts, self.judging)

    @property
    def peak(self) -> int:
        """Peak of a step, in bytes: the larger of sampling and update, which follow each other."""
        return max(self.rollout_peak, self.update_peak)


def estimate(
    shape: Shape, batch: BatchSizes, weights: int, optimizer: int, trained: int, width: int
) -> MemoryNeeds:
    """Memory needs of training. `weights`, `optimizer`: bytes. `trained`: number of trainable parameters.
    `width`: bytes per number in the model's arithmetic."""
    return MemoryNeeds(
        weights=weights,
        optimizer=optimizer,
        gradients=(2 if batch.microbatches > 1 else 1)
        * FLOAT32
        * trained,  # the sum, and the gradient added to it
        step=int(STEP_COPIES * FLOAT32 * trained),
        rollouts=rollout_bytes(shape, batch, width),
        update=update_bytes(shape, batch, width),
    )


def rollout_bytes(shape: Shape, batch: BatchSizes, width: int) -> int:
    """Bytes of sampling: the keys, values and states of every row, and the logits of one token."""
    per_token = 2 * shape.attention_layers * shape.kv_width * width  # bytes of keys and values
    logits = batch.rollout_rows * SAMPLING_COPIES * shape.vocabulary * FLOAT32
    if not batch.rollout_prompts:
        length = batch.prompt_length + batch.new_tokens
        held = CACHE_COPIES * per_token * length
        if shape.states:
            held += STATE_COPIES * FLOAT32 * shape.states.layers * shape.states.state
        return int(batch.rollout_rows * held + logits)
    prompts = batch.rollout_prompts * batch.prompt_length  # tokens
    own = batch.rollout_rows * -(-batch.new_tokens // OWN_STEP) * OWN_STEP
    at_once = min(prompts, PROMPT_TOKENS)
    scores = READING_KEPT * at_once * shape.heads * batch.prompt_length
    if shape.has_blocks(width):
        block = scores_at_once(batch.rollout_prompts, shape.heads, batch.prompt_length)
        scores = min(scores, COPIES * block)
    reading = (scores + READING_KEPT * at_once * shape.intermediate) * width
    return int(prompts * per_token + max(OWN_COPIES * own * per_token + logits, reading))


def judging_bytes(shape: Shape, config: Config, width: int) -> int:
    """Bytes that the judge needs beside its weights, for its longest questions. `shape`: the judge's."""
    shown = config.num_generations if config.judge_mode == "rank" else 1
    question = JUDGE_QUESTION + config.max_prompt_length + shown * config.max_completion_tokens
    batch = BatchSizes(
        rollout_rows=JUDGE_ROWS,
        update_prompts=0,
        update_rows=0,
        prompt_length=question,
        new_tokens=config.judge_max_tokens,
    )
    return rollout_bytes(shape, batch, width)


def update_bytes(shape: Shape, batch: BatchSizes, width: int) -> int:
    """Bytes that a microbatch's forward stores for its backward."""
    completion = batch.update_rows * batch.new_tokens
    prompts = batch.update_prompts if batch.shared_prefix else batch.update_rows
    prompt = prompts * batch.prompt_length
    common = width * (HIDDEN_KEPT * shape.hidden + INTERMEDIATE_KEPT * shape.intermediate)
    common *= completion + prompt
    attention = width * attention_numbers(shape, batch, completion, prompt, shape.has_blocks(width))
    states, at_once = state_bytes(shape.states, batch, completion, prompt, width)
    if shape.has_blocks(width):
        at_once += COPIES * width * block_of_update(shape, batch)
    layers = shape.layers * common + shape.attention_layers * attention + at_once
    layers += shape.states.layers * states if shape.states else 0.0
    if (
        batch.checkpoint
    ):  # every layer's input, the prompts' keys and values, and one layer with its gradients
        inputs = shape.hidden * (completion + prompt) + 2 * shape.kv_width * prompt
        layers = shape.layers * width * inputs + LAYERS_AT_ONCE * (common + max(attention, states)) + at_once
    counted = completion if batch.shared_prefix or batch.slices else completion + prompt
    logits = counted * shape.vocabulary
    copies = LOGITS_KEPT + (ENTROPY_KEPT if batch.entropy_bonus else 0.0)
    return int(layers + copies * FLOAT32 * (min(logits, LOGITS_AT_ONCE) if batch.slices else logits))


def block_of_update(shape: Shape, batch: BatchSizes) -> int:
    """Scores of the largest block: no more than there are."""
    length = batch.prompt_length + batch.new_tokens
    every = shape.heads * batch.update_rows * batch.new_tokens * length
    return min(every, scores_at_once(batch.update_rows, shape.heads, length))


def attention_numbers(
    shape: Shape, batch: BatchSizes, completion: int, prompt: int, has_blocks: bool
) -> float:
    """Numbers that one layer's attention keeps: scores, and keys and values with their gradients.

    `completion`, `prompt`: tokens of the microbatch. In blocks it keeps two numbers of a query instead.
    """
    length = batch.prompt_length + batch.new_tokens
    scores = SCORES_KEPT * shape.heads * (completion * length + prompt * batch.prompt_length)
    if has_blocks:
        scores = 2 * shape.heads * (completion + prompt)
    rows = batch.update_rows * 2 * 2 * shape.kv_width * length  # keys and values, and their gradients
    return 4 * shape.kv_width * (completion + prompt) + scores + rows


def state_bytes(
    states: States | None, batch: BatchSizes, completion: int, prompt: int, width: int
) -> tuple[float, float]:
    """Bytes that one layer with a state keeps, and those beside them while its gradient is computed."""
    if states is None:
        return 0.0, 0.0
    of_new, of_prompt = map(states.numbers_per_token, (batch.new_tokens, batch.prompt_length))
    kept = of_new * completion + of_prompt * prompt
    begun = batch.update_rows if batch.shared_prefix else 0  # rows that begin with their prompt's state
    at_once = states.numbers_at_once(kept, begun, batch.new_tokens)
    number = FLOAT32 if states.delta_chunk else width  # a gated delta rule is computed in float32
    return number * kept + FLOAT32 * begun * STATE_STARTS * states.state, number * at_once


def lora_numbers(shapes: Mapping[str, tuple[int, ...]], rank: int, last_layers: int) -> int:
    """Number of parameters of LoRA adapters on the matrices of the last layers (0: all layers).

    `shapes`: those of the model's arrays, by name.
    """
    layers = {layer_in(name) for name in shapes} - {None}
    chosen = sorted(number for number in layers if number is not None)[-last_layers:]
    matrices = [s for name, s in shapes.items() if len(s) == 2 and layer_in(name) in chosen]
    return sum(rank * (rows + columns) for rows, columns in matrices)


def layer_in(name: str) -> int | None:
    """Layer number in an array's name: 3 for `model.layers.3.mlp.up_proj.weight`; None without one."""
    return next((int(part) for part in name.split(".") if part.isdecimal() and len(part) < 6), None)


def parts(needs: MemoryNeeds) -> str:
    """The three largest parts of the memory needs as text, in GB."""
    named = {
        "weights": needs.weights,
        "optimizer": needs.optimizer,
        "gradients": needs.gradients,
        "rollouts": needs.rollouts,
        "activations and logits": needs.update,
    }
    largest = sorted(named, key=lambda name: -named[name])[:3]
    return ", ".join(f"{name} {named[name] / 1e9:.1f}" for name in largest)


def steps_down(config: Config) -> Iterator[dict[str, Any]]:
    """Configuration changes that save memory, the least costly first."""
    if config.quantize_for_rollouts:
        yield {"quantize_for_rollouts": False}
    if config.steps_per_generation > 1:
        yield {"steps_per_generation": 1}
    budget = config.microbatch_tokens
    while budget > LEAST_BUDGET:
        budget //= 2
        yield {"microbatch_tokens": budget}
    if config.batch_size > 1 and not budget:
        yield {"batch_size": 1, "gradient_accumulation_steps": config.prompts_per_step}
    tokens = config.max_new_tokens
    while tokens > 64:
        tokens //= 2
        yield {"max_new_tokens": tokens}
    if config.num_generations > 4:
        yield {"num_generations": 4}
    if config.lora_rank == 0:
        yield {"lora_rank": 16}
