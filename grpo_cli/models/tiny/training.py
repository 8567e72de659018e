"""Supervised training of the embedded model: architecture, batches, loss and output files.

The architecture is nanochat's of October 2025, exactly as `mlx_lm.models.nanochat` runs it. Only
the assistant's tokens are trained, its end token among them.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.nanochat import Model, ModelArgs, softcap

from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tiny import author, scores, vocabulary

LAYERS, WIDTH, HEADS, SEQUENCE = 4, 128, 4, 256
STEPS = 500
BATCH, PARTS = 64, 2
WARMUP = 40  # steps
MATRIX_LEARNING_RATE = 0.02
LEARNING_RATE = 0.01
SYSTEM_PROMPT_EVERY = 8  # one batch in this many has a system message
REPORT_EVERY = 50

Part = tuple[mx.array, mx.array, mx.array]  # inputs (B, T), places (N,), targets (N,)


def build(output: Path, seed: int, steps: int) -> None:
    """Train, score and write the model's folder."""
    started = time.perf_counter()
    tokenizer = NanochatTokenizer(vocabulary.train_encoding(seed))
    mx.random.seed(seed)
    model = new_model(tokenizer.vocab_size)
    print(f"{tokenizer.vocab_size} tokens, {parameter_count(model):,} parameters", flush=True)
    train(model, tokenizer, seed, steps)
    write(output, model, tokenizer)
    record = {
        "command": f"python -m grpo_cli.models.tiny.build --seed {seed} --steps {steps}",
        "seed": seed,
        "steps": steps,
        "parameters": parameter_count(model),
        "seconds": round(time.perf_counter() - started),
        "scores": scores.all_scores(model, tokenizer),
    }
    (output / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def config(vocab_size: int) -> dict[str, Any]:
    """The model's config.json, without the token ids."""
    return {
        "model_type": "nanochat",
        "architectures": ["NanoChatForCausalLM"],
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": vocab_size,
        "max_position_embeddings": SEQUENCE,
        "intermediate_size": 4 * WIDTH,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
    }


def new_model(vocab_size: int) -> Model:
    """A model with nanochat's initialisation: blocks that contribute nothing yet, and uniform logits."""
    model = Model(ModelArgs.from_dict(config(vocab_size)))
    for block in model.layers:
        block.attn.c_proj.weight = mx.zeros_like(block.attn.c_proj.weight)
        block.mlp.c_proj.weight = mx.zeros_like(block.mlp.c_proj.weight)
    model.lm_head.weight = mx.zeros_like(model.lm_head.weight)
    return model


def parameter_count(model: nn.Module) -> int:
    return sum(array.size for array in dict(tree_flatten(model.parameters())).values())


def train(model: Model, tokenizer: NanochatTokenizer, seed: int, steps: int) -> None:
    """Muon for the blocks' matrices and AdamW for the rest, as in nanochat; prints the loss."""
    optimizer = new_optimizer(steps)
    loss_and_gradient = nn.value_and_grad(model, loss)
    started, recent = time.perf_counter(), 0.0
    for step, parts in enumerate(batches(tokenizer, seed, steps), start=1):
        value, gradient = whole_gradient(model, loss_and_gradient, parts)
        optimizer.update(model, gradient)
        mx.eval(model.parameters(), optimizer.state)
        recent += value / REPORT_EVERY
        if step % REPORT_EVERY == 0:
            print(
                f"step {step}/{steps}  loss {recent:.4f}  {time.perf_counter() - started:.0f} s", flush=True
            )
            recent = 0.0


def whole_gradient(
    model: Model, loss_and_gradient: Callable[..., Any], parts: list[Part]
) -> tuple[float, dict[str, Any]]:
    """Loss and gradient of a batch, accumulated over its parts with one part in memory at a time."""
    trained = sum(targets.size for _, _, targets in parts)
    total, gradient = 0.0, tree_map(mx.zeros_like, model.trainable_parameters())
    for inputs, places, targets in parts:
        value, addend = loss_and_gradient(model, inputs, places, targets, trained)
        gradient = tree_map(mx.add, gradient, addend)
        mx.eval(value, gradient)
        total += float(value)
    return total, gradient


def new_optimizer(steps: int) -> optim.MultiOptimizer:
    """The two optimizers, both with linear warmup and cosine decay to 0."""

    def schedule(peak: float) -> Callable[[mx.array], mx.array]:
        rise = optim.linear_schedule(0.0, peak, WARMUP)
        return optim.join_schedules([rise, optim.cosine_decay(peak, max(1, steps - WARMUP))], [WARMUP])

    muon = optim.Muon(schedule(MATRIX_LEARNING_RATE), weight_decay=0.0)
    adamw = optim.AdamW(schedule(LEARNING_RATE), betas=[0.8, 0.95], weight_decay=0.0)
    return optim.MultiOptimizer([muon, adamw], [lambda path, _: ".h." in path])


def loss(model: Model, inputs: mx.array, places: mx.array, targets: mx.array, trained: int) -> mx.array:
    """Sum of the cross-entropies (nats) of `targets` (N,), divided by `trained`.

    `places` (N,) are their positions in the flattened `inputs` (B, T); only they need logits.
    """
    hidden = model.transformer(inputs).reshape(-1, WIDTH)[places]  # (N, E)
    logits = softcap(model.lm_head(hidden))  # (N, V)
    return nn.losses.cross_entropy(logits, targets, reduction="sum") / trained


def batches(tokenizer: NanochatTokenizer, seed: int, steps: int) -> Iterator[list[Part]]:
    """`steps` batches of fresh problems, each in parts of similar length to limit padding."""
    rng = random.Random(f"{seed}-training")
    for step in range(steps):
        system_prompt = author.SYSTEM_PROMPTS[step % SYSTEM_PROMPT_EVERY == 0]
        rows = [conversation(tokenizer, system_prompt, rng) for _ in range(BATCH)]
        rows.sort(key=lambda row: len(row[0]))
        size = BATCH // PARTS
        yield [part(rows[start : start + size]) for start in range(0, BATCH, size)]


def part(rows: list[tuple[list[int], int]]) -> Part:
    """Rows of ids as arrays, each with the position where its trained tokens start."""
    length = max(len(ids) for ids, _ in rows) - 1
    inputs = [ids[:-1] + [0] * (length + 1 - len(ids)) for ids, _ in rows]
    places: list[int] = []
    targets: list[int] = []
    for number, (ids, start) in enumerate(rows):
        places += range(number * length + start - 1, number * length + len(ids) - 1)
        targets += ids[start:]
    return mx.array(inputs), mx.array(places), mx.array(targets)


def conversation(
    tokenizer: NanochatTokenizer, system_prompt: str, rng: random.Random
) -> tuple[list[int], int]:
    """Ids of one problem with the author's solution, and the position where the solution starts."""
    a, b = author.training_problem(rng)
    prompt = tokenizer.encode_prompt([{"role": "user", "content": author.question(a, b, system_prompt)}])
    end = tokenizer.encoding.encode_single_token("<|assistant_end|>")
    return [*prompt, *tokenizer.encode(author.solution(a, b, rng)), end], len(prompt)


def write(output: Path, model: Model, tokenizer: NanochatTokenizer) -> None:
    """Write a folder that plain mlx-lm loads: weights, config.json and tokenizer files."""
    output.mkdir(parents=True, exist_ok=True)
    weights = tree_map(lambda array: array.astype(mx.float32), model.parameters())
    mx.save_safetensors(str(output / "model.safetensors"), dict(tree_flatten(weights)), {"format": "mlx"})
    tokenizer.save(output)
    special = tokenizer.encoding.encode_single_token
    ids = {
        "bos_token_id": special("<|bos|>"),
        "eos_token_id": [special("<|assistant_end|>"), special("<|bos|>")],
    }
    (output / "config.json").write_text(json.dumps(config(tokenizer.vocab_size) | ids, indent=2) + "\n")
