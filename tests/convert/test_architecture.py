"""The nanochat version of a checkpoint: told from names and shapes, refused where they leave it open."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.convert.architecture import ModelConfig, model_shapes, read_model_config, recognize
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import CropRows
from tests.support.nanochat_checkpoints import GENUINE, SMALL, model_config, shapes_of


def recognised(shapes: dict[str, tuple[int, ...]], fields: dict[str, Any]) -> dict[str, Any]:
    return recognize(shapes, ModelConfig.model_validate(fields), "model.pt").config


def refusal(shapes: dict[str, tuple[int, ...]], fields: dict[str, Any]) -> str:
    with pytest.raises(ConversionError) as error:
        recognised(shapes, fields)
    assert error.value.hint
    return error.value.message.removeprefix("Failed to convert model: ")


def test_october_2025_is_mlx_lms_own() -> None:
    config = recognised(shapes_of("october"), model_config("october"))
    assert config == {
        "model_type": "nanochat",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
        "vocab_size": 1000,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
    }
    assert len(shapes_of("october")) == 6 * 3 + 2


def test_padded_rows_of_october_are_cropped() -> None:
    found = recognize(shapes_of("october", 1024), ModelConfig.model_validate(SMALL), "model.pt")
    assert found.operations == [CropRows(("transformer.wte.weight", "lm_head.weight"), 1024, 1000)]
    assert found.config["vocab_size"] == 1000


def test_january_2026_has_lambdas_and_windows_of_half() -> None:
    config = recognised(shapes_of("january", 1024), model_config("january"))
    assert config["model_type"] == "nanochat_v2"
    assert config["short_window"] == 32
    assert (config["rope_theta"], config["query_key_scale"]) == (10000.0, 1.0)
    assert not (config["smear"] or config["backout"] or config["value_embeddings"])
    assert set(model_shapes(config)) == {*shapes_of("october"), "resid_lambdas", "x0_lambdas"}


def test_the_current_nanochat() -> None:
    config = recognised(shapes_of("current", 1024), model_config("current"))
    assert (config["model_type"], config["padded_vocab_size"]) == ("nanochat_v2", 1024)
    assert config["window_pattern"] == "SSL"
    assert "short_window" not in config


@pytest.mark.skipif(not GENUINE.exists(), reason="needs ../shared/fixtures/nanochat")
@pytest.mark.parametrize(("name", "kind"), [("oct2025-small", "nanochat"), ("head-sft-small", "nanochat_v2")])
def test_genuine_checkpoints_are_recognised(name: str, kind: str) -> None:
    shapes = {
        tensor: tuple(facts["shape"])
        for tensor, facts in json.loads((GENUINE / name / "tensors.json").read_text()).items()
    }
    (meta,) = (GENUINE / name).glob("meta_*.json")
    config = read_model_config(json.loads(meta.read_text()), meta)
    assert recognize(shapes, config, name).config["model_type"] == kind


def without(shapes: dict[str, tuple[int, ...]], *names: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name not in names}


SMEAR = ("smear_lambda", "smear_gate.weight", "backout_lambda")


def value_embeddings(gate: int) -> dict[str, tuple[int, ...]]:
    """February and early March 2026: value embeddings without smearing."""
    shapes = without(shapes_of("current"), *SMEAR)
    return {n: (2, gate) if n.endswith("ve_gate.weight") else shape for n, shape in shapes.items()}


@pytest.mark.parametrize("gate", [12, 32])
def test_value_embeddings_without_smearing_leave_the_softcap_open(gate: int) -> None:
    assert refusal(value_embeddings(gate), model_config("current")) == (
        "model.pt is ambiguous: it has value embeddings (ve_gate.weight, "
        f"{gate} wide) but no smear_lambda; in such models the softcap of the logits was 15 or 20 (it "
        "changed back and forth early in March 2026)"
    )


def test_lambdas_without_a_window_pattern_leave_the_windows_open() -> None:
    assert "no window_pattern" in refusal(shapes_of("january"), SMALL)
    assert "no window_pattern" in refusal(shapes_of("current"), SMALL)


def test_a_window_pattern_without_lambdas_is_of_no_version() -> None:
    assert "has a window_pattern" in refusal(shapes_of("october"), model_config("current"))


@pytest.mark.parametrize("name", ["resid_lambdas", "x0_lambdas", *SMEAR])
def test_an_incomplete_set_names_what_is_missing(name: str) -> None:
    message = refusal(without(shapes_of("current"), name), model_config("current"))
    assert message.endswith(f"lacks {name}")


def test_another_gate_is_refused_by_its_width() -> None:
    shapes = {**shapes_of("current"), "transformer.h.0.attn.ve_gate.weight": (2, 16)}
    assert "(ve_gate.weight) are 12, 16 wide" in refusal(shapes, model_config("current"))


def test_an_unknown_tensor_is_listed() -> None:
    for version in ("october", "january", "current"):
        shapes = {**shapes_of(version), "bigram_lambdas": (3,)}
        assert refusal(shapes, model_config(version)).endswith("\n  unknown: bigram_lambdas")


def test_shapes_that_contradict_the_meta() -> None:
    wider = refusal(shapes_of("october"), {**SMALL, "n_embd": 40})
    assert "transformer.wte.weight is (1000, 32), not (1000, 40)" in wider
    fewer = refusal({**shapes_of("october"), "transformer.wte.weight": (900, 32)}, SMALL)
    assert "transformer.wte.weight is (900, 32), not (1000, 32)" in fewer
    assert "transformer.wte.weight is (), not" in refusal(
        {**shapes_of("october"), "transformer.wte.weight": ()}, SMALL
    )


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ([], "meta.json has no model_config"),
        ({"model_config": None}, "meta.json has no model_config"),
        ({"model_config": {**SMALL, "n_layer": "3"}}, "n_layer: Input should be a valid integer"),
        ({"model_config": {**SMALL, "n_head": 0}}, "n_head: Input should be greater than or equal to 1"),
        (
            {"model_config": {**SMALL, "n_layer": 10**9}},
            "n_layer: Input should be less than or equal to 1024",
        ),
        ({"model_config": {**SMALL, "n_experts": 2}}, "n_experts: Extra inputs are not permitted"),
        ({"model_config": {**SMALL, "n_head": 5}}, "n_embd 32, n_head 5 and n_kv_head 2 do not divide"),
        ({"model_config": {**SMALL, "window_pattern": "SX"}}, "window_pattern: String should match"),
    ],
)
def test_a_model_config_that_is_none(meta: Any, reason: str) -> None:
    with pytest.raises(ConversionError) as error:
        read_model_config(meta, Path("meta.json"))
    assert reason in error.value.message
