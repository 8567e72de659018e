"""The perplexity that tells garbage: by hand, and on a genuine model."""

import json
import math
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.convert.options import Options
from grpo_cli.convert.run import convert
from grpo_cli.doctor.checks.model.language import PROMPT, Reading, bytes_loaded, judged, perplexity
from grpo_cli.doctor.read.config_memory import needed
from tests.support.doctor_findings import Here, at, look, tiny_copy
from tests.support.model_damage import rewritten
from tests.support.nanochat_checkpoints import GENUINE, write_checkpoint


def constant(logits: list[float]) -> Any:
    """A model that gives every position the same logits."""
    return lambda tokens: mx.broadcast_to(mx.array(logits), (*tokens.shape, len(logits)))


def test_uniform_logits_have_the_vocabulary_s_perplexity() -> None:
    assert perplexity(constant([0.0] * 50), [1, 2, 3, 4]) == pytest.approx(50, rel=1e-5)


def test_perplexity_by_hand() -> None:
    """p = 1/2, 1/4, 1/4; the ids after the first are 0, 0, 1: (1/2 · 1/2 · 1/4)^(-1/3) = 16^(1/3)."""
    model = constant([math.log(2), 0.0, 0.0])
    assert perplexity(model, [2, 0, 0, 1]) == pytest.approx(16 ** (1 / 3), rel=1e-5)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (15.0, "language"),  # SmolLM2-135M-Instruct
        (70.1, "language"),  # at 3 bits
        (620.1, "unlikely"),  # its words shuffled
        (2432.7, "unlikely"),  # another, smaller vocabulary
        (13926.2, "unlikely"),  # ids shifted by one
        (72272.4, "guessing"),  # untrained
        (384045.8, "guessing"),  # ids permuted
        (math.inf, "guessing"),
        (math.nan, "guessing"),
    ],
)
def test_the_verdict_on_what_was_measured(measured: float, verdict: str) -> None:
    assert Reading(measured, 49152).verdict == verdict


def test_what_is_told_of_garbage(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    context = Here(model=str(folder))
    said = "M don yourty\nyoust insOifissty"
    finding = judged(context, Reading(70000.0, 65536), said)
    assert finding.severity == "error"
    assert finding.seen == (
        "perplexity 70,000.0 on plain English (guessing: 65,536); "
        f"“{PROMPT}” → “M don yourty youst insOifissty”"
    )
    assert finding.commands == (
        f"grpo doctor --only tokenizer --only model-values --model {folder}",
        f"hf download OWNER/NAME tokenizer.pkl --local-dir {folder}",
    )
    assert judged(context, Reading(2000.0, 65536), said).severity == "warning"
    assert judged(context, Reading(20.0, 65536), said).severity == "ok"


def test_a_vocabulary_of_no_language_is_not_judged() -> None:
    (finding,) = look(Here(model="tiny"), "garbled-output")
    told = "316 tokens are too few for a language: nothing to compare"
    assert (finding.severity, finding.seen) == ("skipped", told)


def converted(source: Path, output: Path) -> Path:
    return convert(str(source), Options(output=output, verify=False)).output


def test_random_weights_are_garbage_for_real(tmp_path: Path) -> None:
    finding = at(converted(write_checkpoint(tmp_path / "source"), tmp_path / "model"), "garbled-output")
    assert finding.severity == "error"
    assert finding.numbers["vocabulary"] == 1000
    assert finding.numbers["perplexity"] > 1000


@pytest.mark.skipif(not GENUINE.exists(), reason="nanochat's own checkpoints are not at hand")
def test_a_genuine_model_with_its_own_and_with_another_tokenizer(tmp_path: Path) -> None:
    """What it reads is language; where its ids mean other tokens, it is not."""
    folder = converted(GENUINE / "oct2025-small", tmp_path / "model")
    right = at(folder, "garbled-output")
    assert right.severity == "ok"
    assert right.numbers["perplexity"] == pytest.approx(100.8, abs=0.5)
    order = mx.array(random.Random(0).sample(range(1000), 1000))

    def change(arrays: Any) -> None:
        for name in ("transformer.wte.weight", "lm_head.weight"):
            arrays[name] = arrays[name][order]

    wrong = at(rewritten(folder, change), "garbled-output")
    assert wrong.severity == "error"
    assert wrong.numbers["perplexity"] > 5000


def test_a_model_without_room_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = converted(write_checkpoint(tmp_path / "source"), tmp_path / "model")
    monkeypatch.setattr("grpo_cli.device.memory_budget", lambda _: 1000)
    finding = at(folder, "garbled-output")
    told = "its weights take 0.0 GB of memory, and 0.0 are free"
    assert (finding.severity, finding.seen) == ("skipped", told)


def test_bytes_of_weights_that_are_unpacked(tmp_path: Path) -> None:
    """8 × 4 packed words of 4 bits are 8 × 32 numbers of 4 bytes; the scales 8 × 1 become float32 too."""
    arrays = {"w.weight": mx.zeros((8, 4), dtype=mx.uint32), "w.scales": mx.zeros((8, 1), dtype=mx.float16)}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    (tmp_path / "config.json").write_text('{"quantization": {"bits": 4, "group_size": 32}}')
    context = Here(model=str(tmp_path))
    assert bytes_loaded(context, upcast=True) == 8 * 32 * 4 + 8 * 4
    assert bytes_loaded(context, upcast=False) == 8 * 4 * 4 + 8 * 2


def test_training_takes_as_many_bytes_of_weights_that_are_unpacked(tmp_path: Path) -> None:
    """4 bits and groups of 32: scales and biases are numbers already, and not 8 of them in a word."""
    arrays = {
        "model.layers.0.w.weight": mx.zeros((8, 4), dtype=mx.uint32),
        "model.layers.0.w.scales": mx.zeros((8, 1), dtype=mx.float16),
        "model.layers.0.w.biases": mx.zeros((8, 1), dtype=mx.float16),
    }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 10}
    facts = {"quantization": {"bits": 4}, "intermediate_size": 64, "model_type": "llama", **shape}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    needs = needed(Config(model_name=str(tmp_path)), tmp_path, on_cpu=True)
    assert needs is not None
    assert needs.weights == 4 * (8 * 32 + 8 + 8) == bytes_loaded(Here(model=str(tmp_path)), upcast=True)
