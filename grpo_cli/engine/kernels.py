"""Kernels that a run computes with, recorded in its state: they decide its results' last bits.

    kernels = kernels_of(policy, plan, optimizer, compiled)     # {"BLAS": "openblas 0.3.29, 2 threads", …}
    changed_kernels(before, kernels)                            # ["BLAS: openblas 0.3.29, 2 threads → mlx"]

Every choice gives the same results to rounding. With the same choices a resumed run equals the uninterrupted
one byte for byte on a CPU; with others it does not, which is reported.
"""

from grpo_cli import device
from grpo_cli.cpu.blas import BlasReport
from grpo_cli.cpu.fast_exp import has_slow_exp
from grpo_cli.engine.ranks.same_setup import version
from grpo_cli.engine.rollout.shared_prompt import reads_in_groups
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.models.load import Policy
from grpo_cli.words import plural

LOSS, FAILED = "loss", "plain: compiling failed"


def kernels_of(
    policy: Policy, plan: ForwardPlan, optimizer: Optimizer, compiled: CompiledLoss | None
) -> dict[str, str]:
    """The choices in effect, by name."""
    found = device.prepare()
    return {
        "device": f"{found.name} ({found.kind})",
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "BLAS": blas_text(found.blas) if found.blas else "none",
        "float32 products": "exact" if device.is_float32_exact() else "TF32",
        "attention": "in blocks" if found.kind == "cpu" else "whole",
        "exponential": "power" if has_slow_exp() else "exp",
        "optimizer": type(optimizer.rule).__name__,
        "rows sampled together": policy.plan.sampled,
        "sampled prompts": "grouped" if is_grouped(policy) else "one per row",
        "trained prompts": "shared" if plan.share_prefix else "one per row",
        "output layer": "separate" if plan.head else "whole",
        "layers": "recomputed" if plan.recompute else "stored",
        LOSS: "plain" if compiled is None else FAILED if compiled.is_off else "compiled",
    }


def is_grouped(policy: Policy) -> bool:
    """True if rollouts read each prompt once for its group."""
    return policy.plan.sampled == "mixed" and reads_in_groups(policy.model)


def blas_text(blas: BlasReport) -> str:
    """The library with its version, kernels and threads, which decide how a sum is divided."""
    name = " ".join(part for part in (blas.name, blas.version, blas.core) if part)
    return f"{name}, {plural(blas.threads, 'thread')}" if blas.threads else name


def changed_kernels(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The choices that differ, with both values. Names in only one of the two are ignored."""
    return [
        f"{name}: {before[name]} → {now[name]}"
        for name in before
        if name in now and before[name] != now[name]
    ]
