"""Tied embeddings: every kind of mlx-lm's loads them, with the logits that the tied model has."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.errors import ModelError
from grpo_cli.models.load import load_model_folder
from grpo_cli.models.tied import KEY
from grpo_cli.models.tree import flat
from tests.support.model_kinds import BASE, KINDS

IDS = mx.array([[5, 9, 17, 33, 12]])
MINICPM = {"scale_emb": 2.0, "scale_depth": 1.4, "dim_model_base": 16}
# Kinds whose class makes an output matrix whatever config.json says, and one that leaves out a factor.
LACKING: dict[str, dict[str, Any]] = {
    **{name: KINDS[name] for name in ("deepseek_v3", "glm4", "gpt_oss", "helium", "qwen2_moe", "stablelm")},
    "minicpm": MINICPM,
}


def untied(kind: str, fields: dict[str, Any]) -> nn.Module:
    """A model whose output matrix equals its embedding, as an untied one: the reference for its logits."""
    module = import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(1)
    settings = {**BASE, "model_type": kind, **fields, KEY: False}
    model: nn.Module = module.Model(module.ModelArgs.from_dict(settings))
    model.set_dtype(mx.float32)
    model.lm_head.weight = model.model.embed_tokens.weight
    mx.eval(model.parameters())
    return model


def write(model: nn.Module, folder: Path, kind: str, fields: dict[str, Any]) -> Path:
    """The folder as it is published: one matrix for both."""
    folder.mkdir()
    arrays = {name: array for name, array in flat(model.parameters()).items() if "lm_head" not in name}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    (folder / "config.json").write_text(json.dumps({**BASE, "model_type": kind, **fields, KEY: True}))
    return folder


def glm4() -> nn.Module:
    return untied("glm4", LACKING["glm4"])


def written(model: nn.Module, tmp_path: Path) -> Path:
    return write(model, tmp_path / "m", "glm4", LACKING["glm4"])


@pytest.mark.parametrize("kind", LACKING)
def test_a_kind_without_tied_embeddings_loads_them(kind: str, tmp_path: Path) -> None:
    model = untied(kind, LACKING[kind])
    loaded, config = load_model_folder(write(model, tmp_path / "m", kind, LACKING[kind]))
    assert mx.abs(loaded(IDS) - model(IDS)).max().item() < 1e-5
    assert config[KEY] is False  # what is saved holds both matrices


def test_a_kind_with_tied_embeddings_stays_tied(tmp_path: Path) -> None:
    model = untied("llama", {})
    loaded, config = load_model_folder(write(model, tmp_path / "m", "llama", {}))
    assert mx.abs(loaded(IDS) - model(IDS)).max().item() < 1e-5
    assert config[KEY] is True
    assert "lm_head" not in loaded


def test_a_saved_model_keeps_its_own_output_matrix(tmp_path: Path) -> None:
    folder = written(glm4(), tmp_path)
    model, config = load_model_folder(folder)
    model.lm_head.weight = 2 * model.lm_head.weight  # as full training changes it alone
    mx.save_safetensors(str(folder / "model.safetensors"), flat(model.parameters()))
    (folder / "config.json").write_text(json.dumps(config))
    again, _ = load_model_folder(folder)
    assert mx.array_equal(again.lm_head.weight, 2 * again.model.embed_tokens.weight)


def test_a_quantized_embedding_is_taken_whole(tmp_path: Path) -> None:
    model = glm4()
    nn.quantize(model, group_size=32, bits=8)
    folder = written(model, tmp_path)
    settings = json.loads((folder / "config.json").read_text()) | {
        "quantization": {"group_size": 32, "bits": 8}
    }
    (folder / "config.json").write_text(json.dumps(settings))
    loaded, _ = load_model_folder(folder)
    assert mx.abs(loaded(IDS) - model(IDS)).max().item() < 1e-5


def test_an_output_matrix_that_was_lost_is_still_an_error(tmp_path: Path) -> None:
    folder = written(glm4(), tmp_path)
    settings = json.loads((folder / "config.json").read_text()) | {KEY: False}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"Missing 1 parameters: *\n?lm_head\.weight"):
        load_model_folder(folder)
