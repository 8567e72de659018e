"""Every choice of a kernel that the engine makes, turned the other way."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import pytest

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.cpu import exact_sums, fast_exp, swiglu
from grpo_cli.engine import kernels, setup
from grpo_cli.engine.grpo import entropy
from grpo_cli.engine.resume import resume
from grpo_cli.engine.rollout import continuous_batch, sampling, shared_prompt
from grpo_cli.engine.train import train
from grpo_cli.engine.update import chunked_logits, compiled_loss, forward, optimizer
from grpo_cli.engine.update.gradient import global_norm
from grpo_cli.models import lean_layers
from tests.support import letter_reward
from tests.support.small_runs import small, weights

SETTINGS: dict[str, Any] = {
    "batch_size": 2,
    "num_generations": 4,
    "max_new_tokens": 12,
    "temperature": 1.5,
    "entropy_coeff": 0.01,
    "max_train_samples": 50,
    "reward_functions": [f"{letter_reward.__file__}:mean_letter"],
}
Turn = Callable[[pytest.MonkeyPatch], None]


def plain_adamw(patch: pytest.MonkeyPatch) -> None:
    def rule(rate: float, betas: list[float], weight_decay: float) -> optim.AdamW:
        return optim.AdamW(rate, betas=betas, weight_decay=weight_decay, bias_correction=True)

    patch.setattr(optimizer, "ChunkedAdamW", rule)


def other_exponential(patch: pytest.MonkeyPatch) -> None:
    other = not fast_exp.has_slow_exp()
    for module in (fast_exp, swiglu, shared_prompt, kernels):
        patch.setattr(module, "has_slow_exp", lambda: other)


def plain_attention(patch: pytest.MonkeyPatch) -> None:
    for module in (continuous_batch, lean_layers):
        patch.setattr(module, "blockwise_attention", nullcontext)


def plain_sums(patch: pytest.MonkeyPatch) -> None:
    for module in (exact_sums, sampling, entropy):
        patch.setattr(module, "row_sums", lambda rows: rows.sum(axis=-1))


def sampled_prompt_per_row(patch: pytest.MonkeyPatch) -> None:
    for module in (continuous_batch, kernels):
        patch.setattr(module, "reads_in_groups", lambda _: False)


def trained_prompt_per_row(patch: pytest.MonkeyPatch) -> None:
    plan = setup.training_plan
    patch.setattr(setup, "training_plan", lambda model, _, *rest: plan(model, False, *rest))


def whole_output_layer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(setup, "find_head", lambda _: None)


def logits_in_slices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forward, "LOGITS_AT_ONCE", 1)
    patch.setattr(chunked_logits, "SLICE", 1 << 12)


def padded_as_if_compiled(patch: pytest.MonkeyPatch) -> None:
    """The compiled loss without MLX's compiler, which a CPU calls for every kernel."""
    found = replace(device.prepare(), compile=True)
    patch.setattr(compiled_loss, "device", SimpleNamespace(prepare=lambda: found))


def entropy_by_autodiff(patch: pytest.MonkeyPatch) -> None:
    def scores(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        every = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(every, targets[..., None], axis=-1).squeeze(-1)
        return chosen, -(mx.exp(every) * every).sum(axis=-1)

    patch.setattr(forward, "logprobs_and_entropies", scores)


CHOICES: dict[str, Turn] = {
    "MLX's AdamW": plain_adamw,
    "the other exponential": other_exponential,
    "MLX's attention": plain_attention,
    "plain sums": plain_sums,
    "a sampled prompt per row": sampled_prompt_per_row,
    "a trained prompt per row": trained_prompt_per_row,
    "output layer not separated": whole_output_layer,
    "logits in slices": logits_in_slices,
    "padded as if compiled": padded_as_if_compiled,
    "entropy by autodiff": entropy_by_autodiff,
}
CONFIGURED: dict[str, dict[str, Any]] = {
    "layers recomputed": {"grad_checkpoint": True},
    "packed under a budget of tokens": {"microbatch_tokens": 64},
}


def trained(folder: Path, steps: int, **settings: Any) -> Config:
    """Train `folder / "run"`, with a checkpoint in the middle."""
    keys = {**SETTINGS, **settings, "max_steps": steps, "save_steps": steps // 2, "keep_checkpoints": 9}
    config = small(folder, **keys)
    train(config)
    return config


def resumes_exactly(config: Config) -> bool:
    """Resume a trained run from its middle checkpoint in a copy: True if it ends with the same bytes."""
    again, last = config.run_dir.parent / "again" / "run", f"checkpoint-{config.max_steps}"
    shutil.copytree(config.run_dir, again, ignore=shutil.ignore_patterns("final", last))
    resume(again)
    return weights(again) == weights(config.run_dir)


def arrays(folder: Path, name: str = "run/final") -> dict[str, mx.array]:
    """The weights of a run of `trained`."""
    found: Any = mx.load(str(folder / name / "model.safetensors"))
    return dict(found)


def largest_difference(found: dict[str, mx.array], expected: dict[str, mx.array]) -> float:
    """The largest of the arrays' differences, each ‖a − b‖ / ‖b‖."""
    return max(global_norm({name: found[name] - b}) / global_norm({name: b}) for name, b in expected.items())
