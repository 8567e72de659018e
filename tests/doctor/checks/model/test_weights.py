"""Weights and their numbers, each broken for real."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.support.doctor_findings import Here, at, look, tiny_copy
from tests.support.model_damage import edit_json, rewritten


def test_weights_that_fit() -> None:
    (finding,) = look(Here(model="tiny"), "model-weights")
    told = "26 tensors, 867,328 numbers in F32: names and shapes match nanochat"
    assert (finding.severity, finding.seen) == ("ok", told)


def drop(arrays: Any) -> None:
    del arrays["lm_head.weight"]


def add(arrays: Any) -> None:
    arrays["transformer.h.9.extra"] = mx.zeros(3)


def reshape(arrays: Any) -> None:
    arrays["lm_head.weight"] = mx.zeros((7, 128))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop, "Missing 1 parameters: lm_head.weight"),
        (add, "Received 1 parameters not in model: transformer.h.9.extra"),
        (reshape, "Expected shape (316, 128) but received shape (7, 128)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: Any, told: str) -> None:
    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-weights")
    assert finding.severity == "error"
    assert told in finding.seen


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` = 1000000000, more than its weights could fill"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_size": "wide"}, 'config.json has `hidden_size` = "wide": it must be a number'),
        ({"model_type": "../../evil"}, "Model type ../../evil not supported"),
    ],
)
def test_a_config_that_makes_no_model(tmp_path: Path, changes: Any, told: str) -> None:
    folder = tiny_copy(tmp_path / "model")
    edit_json(folder / "config.json", **changes)
    finding = at(folder, "model-weights")
    assert finding.severity == "error"
    assert told in finding.seen


def test_numbers_that_are_all_numbers() -> None:
    (finding,) = look(Here(model="tiny"), "model-values")
    assert (finding.severity, finding.seen) == ("ok", "867,328 numbers, none NaN or infinite")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, number: float) -> None:
    def change(arrays: Any) -> None:
        arrays["transformer.h.2.mlp.c_fc.weight"][3, 4] = number

    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-values")
    told = "NaN or infinite numbers in transformer.h.2.mlp.c_fc.weight"
    assert (finding.severity, finding.seen) == ("error", told)


def test_only_the_file_with_the_number_is_fetched_again(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    mx.eval(arrays)
    second = {name: arrays.pop(name) for name in list(arrays) if name.startswith("transformer.h.3.")}
    second["transformer.h.3.mlp.c_fc.weight"][3, 4] = math.nan
    mx.save_safetensors(str(folder / "model-1.safetensors"), arrays)
    mx.save_safetensors(str(folder / "model-2.safetensors"), second)
    (folder / "model.safetensors").unlink()
    finding = at(folder, "model-values")
    assert finding.commands == (f"hf download OWNER/NAME model-2.safetensors --local-dir {folder}",)


def test_rows_of_zeros_of_tokens_that_text_becomes(tmp_path: Path) -> None:
    def change(arrays: Any) -> None:
        arrays["transformer.wte.weight"][5] = 0.0
        arrays["transformer.wte.weight"][9] = 0.0

    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-values")
    told = "transformer.wte.weight: 2 token ids have a row of zeros (5, 9)"
    assert (finding.severity, finding.seen) == ("warning", told)


def test_rows_of_zeros_that_no_text_uses_are_fine(tmp_path: Path) -> None:
    """The current nanochat rounds 1,000 tokens up to 1,024 rows; id 315 is a special token of tiny's."""

    def change(arrays: Any) -> None:
        arrays["lm_head.weight"][315] = 0.0
        for name in ("transformer.wte.weight", "lm_head.weight"):
            arrays[name] = mx.concatenate([arrays[name], mx.zeros((4, 128))])

    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-values")
    told = f"{867_328 + 2 * 4 * 128:,} numbers, none NaN or infinite; 9 zero rows that no text uses"
    assert (finding.severity, finding.seen) == ("ok", told)
