"""The compiled loss: the plain one's numbers and gradient, few compilations, and a way back.

Where MLX's compiler is off, as on this CPU, a compiled function is the function itself: what is compared then
is the padding to buckets and the weights that go in as arguments. One test turns the compiler on.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.device import Device
from grpo_cli.engine.grpo.importance_sampling import Correction
from grpo_cli.engine.update import compiled_loss as compiling
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.gradient import UpdateResult, accumulate
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.shape_buckets import Most
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.tree import flat
from tests.support.microbatches import microbatch
from tests.support.small_architectures import MODELS, model_of
from tests.support.steps import objective_of
from tests.support.waiting import HANG

MOST = Most(completion=40, prompt=12, rows=16)
PLAIN = objective_of("dapo", 0.7, 0.2, 0.2, 0.0)


def batches(**more: Any) -> list[Microbatch]:
    """Two microbatches that go into one bucket, and one of another."""
    mx.random.seed(5)
    return [
        microbatch([[3, 4, 5], [6, 7]], [0, 0, 1, 1, 1], [5, 2, 3, 4, 1], **more),
        microbatch([[9, 8, 7, 6], [6]], [0, 1, 0, 1, 0, 0], [2, 7, 3, 4, 1, 2], **more),
        microbatch([[2, 1]], [0, 0], [33, 36], **more),
    ]


def logprobs_for(made: list[Microbatch], name: str) -> list[Microbatch]:
    """Random logprobs in a field of every microbatch."""
    for batch in made:
        setattr(batch, name, mx.random.uniform(-5.0, -2.0, batch.targets.shape))
    return made


def masked(made: list[Microbatch]) -> list[Microbatch]:
    """Every second token has a policy loss."""
    for batch in made:
        batch.policy_mask = mx.arange(batch.targets.shape[1])[None] % 2 == mx.zeros((len(batch.rows), 1))
    return made


def adaptive(made: list[Microbatch], coefficient: float) -> list[Microbatch]:
    """An entropy bonus with a coefficient of the step."""
    for batch in made:
        batch.entropy_coeffs = mx.full((len(batch.rows), 1), coefficient)
    return made


def never(notice: Any) -> None:
    raise AssertionError(notice.text)


def both(
    model: nn.Module, made: list[Microbatch], objective: Objective
) -> tuple[CompiledLoss, tuple[Any, UpdateResult], tuple[Any, UpdateResult]]:
    """By the padded function, and plainly."""
    compiled = CompiledLoss(model, MOST, never)
    return compiled, accumulate(model, made, objective, compiled=compiled), accumulate(model, made, objective)


def check(found: tuple[Any, UpdateResult], expected: tuple[Any, UpdateResult]) -> None:
    """Gradients, loss, clip counts, KL and logprobs are the same."""
    gradients, plain = flat(found[0]), flat(expected[0])
    assert gradients.keys() == plain.keys()
    norm = expected[1].grad_norm
    off = sum((gradients[name] - plain[name]).square().sum().item() for name in plain) ** 0.5
    assert norm > 0.01
    assert off < 1e-5 * norm
    for name in (
        "loss",
        "clip_ratio",
        "clip_ratio_low",
        "clip_ratio_high",
        "off_policy_masked",
        "kl",
        "entropy",
    ):
        value = getattr(expected[1], name)
        assert getattr(found[1], name) == (
            value if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)
        )
    for one, other in zip(found[1].logprobs, expected[1].logprobs, strict=True):
        assert one.shape == other.shape
        assert mx.allclose(one, other, atol=1e-5).item()


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_has_the_plain_gradient(kind: str) -> None:
    model = model_of(kind)
    compiled, found, expected = both(model, batches(), PLAIN)
    check(found, expected)
    assert expected[1].clip_ratio > 0.1
    assert compiled.compilations == 2


CASES: dict[str, tuple[Objective, list[Microbatch]]] = {
    "kl": (objective_of("grpo", 0.7, 0.2, 0.2, 0.1), logprobs_for(batches(), "ref_logprobs")),
    "corrected kl": (
        objective_of("grpo", 0.7, 0.2, 0.2, 0.1, kl_estimator="k1", use_bias_correction_kl=True),
        logprobs_for(batches(), "ref_logprobs"),
    ),
    "by sequence": (objective_of("gspo", 0.7, 0.2, 0.2, 0.0), batches()),
    **{
        name: (objective_of(name, 0.7, 0.2, 0.2, 0.0), masked(batches()))
        for name in ("cispo", "sapo", "luspo", "gmpo", "vespo", "dppo")
    },
    "vespo with another sampler": (
        objective_of("vespo", 0.7, 0.2, 0.2, 0.0, correction=Correction("token_mask", 2.0)),
        logprobs_for(batches(), "sampler_logprobs"),
    ),
    "entropy": (objective_of("dapo", 0.7, 0.2, 0.2, 0.0, entropy_coeff=0.3), batches()),
    "adaptive entropy": (
        objective_of("dapo", 0.7, 0.2, 0.2, 0.0, use_adaptive_entropy=True),
        adaptive(batches(), 0.3),
    ),
    "off-policy mask": (objective_of("dapo", 0.7, 0.2, 0.2, 0.0, off_policy_mask_threshold=0.1), batches()),
    "policy mask": (PLAIN, masked(batches())),
    "first update": (PLAIN, batches(old_is_current=True)),
    "checkpointed": (objective_of("dapo", 0.7, 0.2, 0.2, 0.0, recompute=True), batches()),
    "another sampler": (
        objective_of("dapo", 0.7, 0.2, 0.2, 0.0, correction=Correction("token_truncate", 2.0)),
        logprobs_for(batches(), "sampler_logprobs"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_option_has_the_plain_gradient(name: str) -> None:
    objective, made = CASES[name]
    _, found, expected = both(model_of("llama"), made, objective)
    check(found, expected)
    importance = expected[1].importance
    assert (importance is not None) == ("another sampler" in name)
    if importance is not None and found[1].importance is not None:
        assert vars(found[1].importance) == pytest.approx(vars(importance), rel=1e-5)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_logits_in_slices(checkpoint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("nanochat_v2")
    monkeypatch.setattr("grpo_cli.engine.update.forward.LOGITS_AT_ONCE", 48)
    monkeypatch.setattr("grpo_cli.engine.update.chunked_logits.SLICE", 48 * 20)
    objective = objective_of("dapo", 0.7, 0.2, 0.2, 0.0, head=find_head(model), recompute=checkpoint)
    _, found, expected = both(model, batches(), objective)
    check(found, expected)


def test_adapters_only() -> None:
    model = model_of("llama, tied")
    add_adapters(model, LoRA(rank=2))
    moved = [
        (name, mx.random.normal(array.shape) * 0.1)
        for name, array in flat(model.trainable_parameters()).items()
    ]
    model.load_weights(moved, strict=False)
    _, found, expected = both(model, batches(), PLAIN)
    check(found, expected)
    assert all("lora" in name for name in flat(found[0]))
    assert str(found[0].keys()) == str(expected[0].keys())  # the same tree, so that they can be added


def test_the_weights_of_the_model_stay_its_own() -> None:
    model = model_of("llama")
    before = flat(model.parameters())
    CompiledLoss(model, MOST, never).compute(batches()[0], PLAIN)
    assert all(flat(model.parameters())[name] is array for name, array in before.items())


def test_changed_weights_are_seen() -> None:
    model: Any = model_of("llama")
    compiled = CompiledLoss(model, MOST, never)
    accumulate(model, batches(), PLAIN, compiled=compiled)
    model.lm_head.weight = model.lm_head.weight * 2
    check(accumulate(model, batches(), PLAIN, compiled=compiled), accumulate(model, batches(), PLAIN))
    assert compiled.compilations == 2


def test_functions_are_dropped_that_were_long_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "CACHE_SIZE", 1)
    model = model_of("llama")
    compiled = CompiledLoss(model, MOST, never)
    for _ in range(2):
        check(accumulate(model, batches(), PLAIN, compiled=compiled), accumulate(model, batches(), PLAIN))
    assert len(compiled.functions) == 1
    assert compiled.compilations == 4


# --- the way back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[compile] no kernel\nof that kind"),
        ValueError("[eval] not while tracing"),
        TypeError("x"),
    ],
)
def test_a_failure_ends_compiling_and_not_the_run(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(compiling, "compiled", lambda *_: broken)
    model, told = model_of("llama"), []
    compiled = CompiledLoss(model, MOST, told.append)
    check(accumulate(model, batches(), PLAIN, compiled=compiled), accumulate(model, batches(), PLAIN))
    assert [notice.text.partition(". ")[0] for notice in told] == [
        f"the compiled update is not used: {str(error).partition(chr(10))[0]}"
    ]
    assert compiled.is_off


def test_another_gradient_ends_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sign turned it is off by twice its norm, and the plain one is taken."""
    real = compiling.compiled

    def turned(*arguments: Any) -> Any:
        function = real(*arguments)

        def compute(*arrays: Any) -> Any:
            numbers, gradients = function(*arrays)
            return numbers, {name: -gradient for name, gradient in gradients.items()}

        return compute

    monkeypatch.setattr(compiling, "compiled", turned)
    model, told = model_of("llama"), []
    compiled = CompiledLoss(model, MOST, told.append)
    check(accumulate(model, batches(), PLAIN, compiled=compiled), accumulate(model, batches(), PLAIN))
    assert len(told) == 1
    assert "differs from the plain one by 2 of its norm" in told[0].text


def test_a_gradient_without_a_number_says_nothing() -> None:
    model: Any = model_of("llama")
    compiled = CompiledLoss(model, MOST, never)
    whole = model.lm_head.weight
    model.lm_head.weight = whole * float("nan")
    accumulate(model, batches(), PLAIN, compiled=compiled)
    assert not compiled.was_compared
    model.lm_head.weight = whole
    accumulate(model, batches(), PLAIN, compiled=compiled)
    assert compiled.was_compared


# --- when it is used --------------------------------------------------------------------------------


def of(monkeypatch: pytest.MonkeyPatch, compiles: bool, share_prefix: bool = True, **changes: Any) -> Any:
    monkeypatch.setattr(
        compiling.device,
        "prepare",
        lambda: Device(kind="metal", name="M4", memory_bytes=None, compile=compiles),
    )
    return CompiledLoss.of(Config(**changes), model_of("llama"), ForwardPlan(share_prefix), never)


def test_it_is_used_where_the_device_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    made = of(monkeypatch, True, max_new_tokens=100, max_prompt_length=50, num_generations=4)
    assert made.most == Most(100, 49, 16)
    assert of(monkeypatch, False) is None
    assert of(monkeypatch, True, share_prefix=False) is None
    assert of(monkeypatch, True, use_compile=False) is None


def fast_compiler(folder: Path) -> Path:
    """A folder with a `g++` that reads MLX's header precompiled: 0.15 s a kernel, not 0.75 s."""
    header = Path("mlx/backend/cpu/compiled_preamble.h")
    include = Path(mx.__file__).parent / "include"
    (folder / header).parent.mkdir(parents=True)
    shutil.copy(include / header, folder / header)
    options = ["-std=c++17", "-O3", "-fPIC", "-w", "-I", str(include), "-x", "c++-header", str(header)]
    subprocess.run(["g++", *options], cwd=folder, check=True)
    (folder / "g++").write_text(f'#!/bin/sh\nexec {shutil.which("g++")} -I {folder} "$@"\n')
    (folder / "g++").chmod(0o755)
    return folder


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which MLX compiles with on Linux")
@pytest.mark.skipif(sys.platform != "linux", reason="the CPU's compiler is tried on Linux")
def test_with_the_compiler_on(tmp_path: Path) -> None:
    """One layer, checkpointed, logits in slices, two buckets, and weights that change in between."""
    environment = {name: value for name, value in os.environ.items() if name != "MLX_DISABLE_COMPILE"}
    environment["PATH"] = f"{fast_compiler(tmp_path)}:{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compiled_in_full"],
        capture_output=True, text=True, env={**environment, "GRPO_DEVICE": "cpu"},
        cwd=Path(__file__).parents[2], timeout=HANG, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "compilations 2\n"
