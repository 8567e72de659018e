"""Two trainers of plain mlx_lm on full weights: as MLX-GRPO did it, and as one would write it today.

`one_by_one`, MLX-GRPO's method, from its description: each completion is generated alone, becomes a text, and
the text of prompt and completion is tokenised again; a forward and a backward for each. The end token is lost
on the way. Left out in its favour: a forward of each sequence for the old logprobs, which are the current
ones here, and copies of the model as the old policy and the reference.

`batched`: `batch_generate` for all completions of a step, then one padded forward and backward of all, each
with its own prompt.

Both: advantages (r − mean) / (std + 1e-4) in the group, loss −A · π/π_old averaged over the tokens of a
completion and then over completions, clipping by norm, AdamW.
"""

import statistics
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map
from mlx_lm import generate
from mlx_lm.generate import batch_generate
from mlx_lm.sample_utils import make_sampler

from tests.bench.peers.job import MOST_GRADIENT, Job, Problem, Recorder, accuracy, load, score

Sequence = tuple[list[int], list[int]]  # token ids of a prompt and of its completion
Rollouts = Callable[[Job, Any, Any, list[Problem]], tuple[list[str], list[Sequence]]]
Gradient = Callable[[nn.Module, list[Sequence], list[float]], Any]


def train(job: Job, rollouts: Rollouts, gradient: Gradient) -> dict[str, Any]:
    """The loop of both."""
    model, tokenizer = load(job)
    optimizer = optim.AdamW(job.learning_rate, weight_decay=0.0, bias_correction=True)
    recorder = Recorder()
    for index in range(job.steps):
        problems = [problem for problem in job.step(index) for _ in range(job.generations)]  # P·G
        texts, sequences = rollouts(job, model, tokenizer, problems)
        rewards = score(job.reward, problems, texts)
        gradients = gradient(model, sequences, advantages(rewards, job.generations))
        optimizer.update(model, optim.clip_grad_norm(gradients, MOST_GRADIENT)[0])
        mx.eval(model.parameters(), optimizer.state)
        del gradients
        recorder.step(rewards, [len(completion) for _, completion in sequences])
    return {**recorder.as_dict(), "accuracy": accuracy(job, model, tokenizer)}


def advantages(rewards: list[float], generations: int) -> list[float]:
    """Each reward beside those of its group: (r − mean) / (std + 1e-4)."""
    found = []
    for start in range(0, len(rewards), generations):
        group = rewards[start : start + generations]
        mean, spread = statistics.fmean(group), statistics.stdev(group)
        found += [(reward - mean) / (spread + 1e-4) for reward in group]
    return found


# --- MLX-GRPO's method -----------------------------------------------------------------------------------


def one_by_one(job: Job) -> dict[str, Any]:
    """Train with sequential rollouts."""
    return train(job, sequential_rollouts, sequential_gradient)


def sequential_rollouts(
    job: Job, model: Any, tokenizer: Any, problems: list[Problem]
) -> tuple[list[str], list[Sequence]]:
    """Texts, one after the other, and their tokens."""
    sampler = make_sampler(temp=job.temperature)
    texts = [
        generate(model, tokenizer, problem.ids, max_tokens=job.new_tokens, sampler=sampler)
        for problem in problems
    ]
    pairs = zip(problems, texts, strict=True)
    return texts, [tokenised_again(tokenizer, problem.ids, text) for problem, text in pairs]


def tokenised_again(tokenizer: Any, prompt_ids: list[int], text: str) -> Sequence:
    """The tokens of prompt and completion from their joined text, split at the prompt's length."""
    ids = tokenizer.encode(tokenizer.decode(prompt_ids) + text, add_special_tokens=False)
    return ids[: len(prompt_ids)], ids[len(prompt_ids) :]


def sequential_gradient(model: nn.Module, sequences: list[Sequence], weights: list[float]) -> Any:
    """The gradient of the mean loss, from a forward and a backward of each sequence."""
    loss_and_grad = nn.value_and_grad(model, sequence_loss)
    total = tree_map(mx.zeros_like, model.trainable_parameters())
    for (prompt, completion), weight in zip(sequences, weights, strict=True):
        if completion:
            _, gradients = loss_and_grad(model, prompt, completion, weight / len(sequences))
            total = tree_map(mx.add, total, gradients)
            mx.eval(total)
    return total


def sequence_loss(model: nn.Module, prompt: list[int], completion: list[int], weight: float) -> mx.array:
    """−weight · π/π_old, averaged over the completion's tokens; π_old is π."""
    logits = model(mx.array([prompt + completion[:-1]]))[0, len(prompt) - 1 :]  # (T, V)
    logprobs = -nn.losses.cross_entropy(logits, mx.array(completion))  # (T,)
    return -weight * mx.exp(logprobs - mx.stop_gradient(logprobs)).mean()


# --- all at once -----------------------------------------------------------------------------------------


def batched(job: Job) -> dict[str, Any]:
    """Train with batched rollouts and one forward for all."""
    return train(job, batched_rollouts, batched_gradient)


def batched_rollouts(
    job: Job, model: Any, tokenizer: Any, problems: list[Problem]
) -> tuple[list[str], list[Sequence]]:
    """Texts and tokens of all completions; the end token, which mlx-lm drops, is put back."""
    found = batch_generate(
        model, tokenizer, [problem.ids for problem in problems], max_tokens=job.new_tokens,
        sampler=make_sampler(temp=job.temperature), return_token_ids=True,
        completion_batch_size=len(problems), prefill_batch_size=len(problems),
    )  # fmt: skip
    end = [tokenizer.eos_token_id]
    completions = [ids + end if len(ids) < job.new_tokens else ids for ids in found.token_ids or []]
    return found.texts, [(problem.ids, ids) for problem, ids in zip(problems, completions, strict=True)]


def batched_gradient(model: nn.Module, sequences: list[Sequence], weights: list[float]) -> Any:
    """The gradient of the mean loss, from one forward and one backward."""
    return nn.value_and_grad(model, batched_loss)(model, sequences, weights)[1]


def batched_loss(model: nn.Module, sequences: list[Sequence], weights: list[float]) -> mx.array:
    """The mean over completions of −weight · π/π_old, each averaged over its tokens; π_old is π."""
    rows = [prompt + completion for prompt, completion in sequences]
    width = max(map(len, rows))
    ids = mx.array([row + [0] * (width - len(row)) for row in rows])  # (B, T)
    starts = mx.array([[len(prompt)] for prompt, _ in sequences])
    ends = mx.array([[len(row)] for row in rows])
    places = mx.arange(1, width)[None]
    mask = (places >= starts) & (places < ends)  # (B, T − 1), of the targets
    logprobs = -nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])  # (B, T − 1)
    ratios = mx.where(mask, mx.exp(logprobs - mx.stop_gradient(logprobs)), 0)
    means = ratios.sum(axis=1) / mx.maximum(mask.sum(axis=1), 1)
    return -(mx.array(weights) * means).mean()
