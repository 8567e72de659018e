"""Every command refuses what the doctor calls ✗ of a model, and the reverse: each damage on both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.errors import ModelError
from grpo_cli.models.load import load_policy
from tests.support.doctor_findings import Here, look
from tests.support.llama import write_llama
from tests.support.model_damage import edit_json, entry, rewritten, safetensors

CHECKS = ("model-files", "model-weights", "model-values", "tokenizer", "vocabulary")
Damage = Callable[[Path], object]


def file(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def config(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **changes)


def numbers(change: Callable[[Any], object]) -> Damage:
    return lambda folder: rewritten(folder, change)


def index(places: Any) -> Damage:
    return file("model.safetensors.index.json", json.dumps({"weight_map": places}).encode())


DAMAGES: dict[str, Damage] = {
    "no config": gone("config.json"),
    "config is a pointer": file("config.json", b"version https://git-lfs.github.com/spec/v1\n"),
    "config is cut off": file("config.json", b'{"model_type": "lla'),
    "config has no type": config(model_type=None),
    "an unknown type": config(model_type="../../evil"),
    "code of its own": config(model_file="evil.py"),
    "too many layers": config(num_hidden_layers=10**9),
    "a width of text": config(hidden_size="wide"),
    "no heads": config(num_attention_heads=0),
    "another width": config(intermediate_size=32),
    "an end that is no id": config(eos_token_id="</s>"),
    "of bitsandbytes": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "no weights": gone("model.safetensors"),
    "weights are cut off": lambda f: file("model.safetensors", (f / "model.safetensors").read_bytes()[:-100])(
        f
    ),
    "weights of another model": file("model.safetensors", safetensors(entry(), b"\0" * 8)),
    "a tensor is missing": numbers(lambda arrays: arrays.pop("model.norm.weight")),
    "a tensor too many": numbers(lambda arrays: arrays.update(x=mx.zeros(2))),
    "a weight is NaN": numbers(lambda arrays: arrays.update({"model.norm.weight": mx.full(64, mx.nan)})),
    "a stale shard": lambda f: file(
        "model-00001-of-00001.safetensors", (f / "model.safetensors").read_bytes()
    )(f),
    "a file that the index lacks": index({"model.norm.weight": "model-00001-of-00001.safetensors"}),
    "an index that is none": index({"a": 3}),
    "a broken generation_config": file("generation_config.json", b"[]"),
    "no tokenizer": lambda f: [gone("tokenizer.json")(f), gone("tokenizer_config.json")(f)],
    "only the tokenizer's settings": gone("tokenizer.json"),
    "a tokenizer without a model": file("tokenizer.json", b'{"model": 3}'),
    "settings that are no object": file("tokenizer_config.json", b"[]"),
}
HARMLESS: dict[str, Damage] = {
    "nothing": lambda _: None,
    "a JSON file that nobody reads": file("notes.json", b"{"),
    "no settings of the tokenizer": gone("tokenizer_config.json"),
}


def crosses(folder: Path) -> list[str]:
    return [finding.seen for finding in look(Here(model=str(folder)), *CHECKS) if finding.severity == "error"]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_a_cross_and_refused(name: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    DAMAGES[name](folder)
    assert crosses(folder)
    with pytest.raises(ModelError) as error:
        load_policy(str(folder))
    assert error.value.hint
    assert str(folder) in error.value.message


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_neither(name: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    HARMLESS[name](folder)
    assert crosses(folder) == []
    assert load_policy(str(folder)).parameter_count > 0


def test_logits_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    rewritten(folder, lambda arrays: arrays.update({"model.norm.weight": mx.full(64, 3e38)}))
    with pytest.raises(ModelError, match="gives NaN or infinite logits"):
        load_policy(str(folder))
    rewritten(folder, lambda arrays: arrays.update({"model.norm.weight": mx.full(64, mx.inf)}))
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds NaN"):
        load_policy(str(folder))


def test_adapters_of_peft_without_a_counterpart_are_told_as_such(tmp_path: Path) -> None:
    document = {"peft_type": "IA3", "base_model_name_or_path": "owner/name"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError) as error:
        load_policy(str(tmp_path))
    told = f"The PEFT adapters in {tmp_path} cannot be converted exactly: mlx-lm has no counterpart for "
    assert error.value.message == f'{told}peft_type = "IA3"'
    assert "merge_and_unload" in error.value.hint
    (finding,) = look(Here(model=str(tmp_path)), "model-files")
    assert 'no counterpart for peft_type = "IA3"' in finding.seen
