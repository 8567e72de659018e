"""Optimizer states that are those of other weights, or lack a part; each damaged for real."""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.doctor.findings import Finding
from tests.support.checkpoint_findings import flip, of_run, rehashed
from tests.support.doctor_findings import Here, look, seen


def changed_optimizer(folder: Path, change: Any) -> Finding:
    arrays: Any = mx.load(str(folder / "optimizer.safetensors"))
    mx.eval(arrays)
    change(arrays)
    mx.save_safetensors(str(folder / "optimizer.safetensors"), arrays)
    rehashed(folder)
    (finding,) = [f for f in look(Here(checkpoint=folder), "optimizer-state") if f.severity != "skipped"]
    return finding


def other_shape(arrays: Any) -> None:
    arrays["rule.lm_head.weight.m"] = mx.zeros((3, 4))


def stranger(arrays: Any) -> None:
    arrays["rule.other.weight.m"] = mx.zeros(3)


def lost(arrays: Any) -> None:
    for part in "mv":
        del arrays[f"rule.lm_head.weight.{part}"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_shape, "final: rule.lm_head.weight.m has the shape (3, 4), its weight (316, 128)"),
        (stranger, "final: rule.other.weight.m belongs to no weight"),
        (lost, "final: lm_head.weight has no state"),
    ],
)
def test_an_optimizer_of_other_weights(run: Path, change: Any, told: str) -> None:
    assert seen(changed_optimizer(run / "final", change)) == ("error", told)


def test_masters_that_are_missing_or_rounded(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "half" / "final", tmp_path / "final"))

    def drop(arrays: Any) -> None:
        del arrays["master.lm_head.weight"]

    def round_off(arrays: Any) -> None:
        arrays["master.lm_head.weight"] = mx.zeros((316, 128), dtype=mx.bfloat16)

    assert changed_optimizer(folder, drop).seen == "final: lm_head.weight has no float32 master"
    assert changed_optimizer(folder, round_off).seen == "final: master.lm_head.weight is BF16, not float32"


def test_an_optimizer_that_is_missing(run: Path) -> None:
    (run / "final" / "optimizer.safetensors").unlink()
    rehashed(run / "final")
    found = look(Here(checkpoint=run / "final"), "optimizer-state")[0]
    assert seen(found) == ("error", "final: optimizer.safetensors is missing")
    assert found.commands == (train_from(run / "final"),)


def train_from(folder: Path) -> str:
    return f"grpo train --config {folder / 'config.toml'} --set model_name={folder} --set run_name=NAME"


def test_weights_that_are_missing(run: Path) -> None:
    """The manifest is right of it; the cure names the newest other checkpoint whose weights are whole."""
    (run / "final" / "model.safetensors").unlink()
    rehashed(run / "final")
    flip(run / "checkpoint-2")
    found = look(Here(checkpoint=run / "final"), "optimizer-state")[0]
    assert seen(found) == ("error", "final: model.safetensors is missing")
    assert found.commands == (train_from(run / "checkpoint-1"),)
    shutil.rmtree(run / "checkpoint-1")
    found = look(Here(checkpoint=run / "final"), "optimizer-state")[0]
    assert found.commands == (f"ls -l {run / 'final'}",)


def test_weights_that_are_cut_off(run: Path) -> None:
    """`checkpoint-files` tells of it, alone; the others are compared."""
    path = run / "final" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert [seen(found) for found in look(Here(checkpoint=run / "final"), "optimizer-state")] == [
        ("skipped", "final: see checkpoint-files")
    ]
    (found,) = of_run(run, "optimizer-state")
    assert seen(found) == ("ok", "checkpoint-1, checkpoint-2: 54 arrays fit 26 weights")
