"""Model folders converted: in transformers' format, and nanochat models converted or trained here."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import Options
from grpo_cli.convert.to_nanochat import convert_back
from grpo_cli.models.load import load_policy
from tests.support.conversions import CHECKS, VERSIONS, converted, refusal, refusal_in, stored
from tests.support.nanochat_checkpoints import shapes_of, tensors_of, write_checkpoint

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_transformers_format(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done, checks = converted(llama)
    assert done.output == Path("models/llama-mlx")
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in CHECKS]
    assert {n: a.tolist() for n, a in stored(done.output).items()} == {
        n: a.tolist() for n, a in stored(llama).items()
    }
    assert not done.is_nanochat
    assert capfd.readouterr().out == ""  # mlx-lm's own lines stay out of the results


def test_transformers_format_quantised_and_in_another_format(llama: Path) -> None:
    done, _ = converted(llama, quantize=True, bits=4, group_size=64, dtype="float16")
    config = json.loads((done.output / "config.json").read_text())
    assert (config["quantization"]["bits"], config["quantization"]["group_size"]) == (4, 64)
    assert {array.dtype for array in stored(done.output).values()} == {mx.float16, mx.uint32}
    assert 4.5 <= done.bits_per_weight < 6


def test_transformers_format_has_no_steps_and_no_renaming(llama: Path) -> None:
    assert "`--rename` and `--step` do not apply" in refusal(llama, step=1).message


def test_what_is_quantised_is_not_quantised_again(llama: Path, tmp_path: Path) -> None:
    small, _ = converted(llama, quantize=True, output=tmp_path / "small")
    assert "is already quantized" in refusal(small.output, quantize=True).message


@pytest.mark.parametrize("quantize", [True, False])
def test_a_source_with_a_nan_is_told_as_one(llama: Path, quantize: bool) -> None:
    arrays = stored(llama)
    name = "model.layers.0.mlp.up_proj.weight"
    arrays[name][3, 5] = float("nan")
    mx.save_safetensors(str(llama / "model.safetensors"), arrays)
    assert f"(weights: {name} of the source holds NaN)" in refusal(llama, quantize=quantize).message


def test_a_nan_of_nanochats_is_not_hidden_by_quantising(tmp_path: Path) -> None:
    done, _ = converted(write_checkpoint(tmp_path / "d3"), output=tmp_path / "model")
    arrays = stored(done.output)
    arrays["transformer.h.0.mlp.c_fc.weight"][0, 0] = float("nan")
    mx.save_safetensors(str(done.output / "model.safetensors"), arrays)
    error = refusal_in(done.output, tmp_path, output=tmp_path / "q", quantize=True, group_size=32)
    assert "c_fc.weight of the source holds NaN" in error.message
    with pytest.raises(ConversionError, match="holds NaN or infinite numbers"):
        convert_back(str(done.output), Options(output=tmp_path / "x"), lambda *_: None, lambda _: None)


def test_a_vocabulary_that_is_not_the_models_is_refused(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text()) | {"vocab_size": 100}
    arrays = stored(llama)
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"][:100]  # tied to the head
    mx.save_safetensors(str(llama / "model.safetensors"), arrays)
    (llama / "config.json").write_text(json.dumps(config))
    assert "needs 312 ids, the model has only 100 rows" in refusal(llama).message


def test_a_folder_without_a_tokenizer(llama: Path) -> None:
    (llama / "tokenizer.json").unlink()
    assert "has no tokenizer (tokenizer.json)" in refusal(llama).message


def test_a_disk_that_fills_up_is_not_the_sources_fault(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any, **__: Any) -> None:
        raise RuntimeError("[write] Unable to write 314625 bytes to file.")

    monkeypatch.setattr("grpo_cli.convert.through_mlx_lm.save_model", write)
    error = refusal(llama)
    assert "cannot write the result" in error.message
    assert error.hint.startswith("free some space")


def test_group_sizes_that_fit_few_layers_are_told(llama: Path) -> None:
    _, checks = converted(llama, quantize=True, group_size=128)
    assert (
        "most weights are not quantized: their row length is not a multiple of `--group-size`"
        in checks[0].seen
    )


# --- a model of nanochat that was converted or trained here ------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_converted_nanochat_is_converted_further(version: str, tmp_path: Path) -> None:
    first, _ = converted(write_checkpoint(tmp_path / "d3", version, rows=1024))
    (first.output / "nanochat_v2.py").write_text("raise SystemExit('it was run')")  # a stranger's code
    done, checks = converted(first.output, output=tmp_path / "half", dtype="bfloat16")
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in CHECKS]
    assert done.is_nanochat
    assert (done.output / "tokenizer.pkl").read_bytes() == (first.output / "tokenizer.pkl").read_bytes()
    assert {array.dtype for array in stored(done.output).values()} == {mx.bfloat16}
    small, _ = converted(first.output, output=tmp_path / "small", quantize=True, bits=8, group_size=32)
    assert load_policy(str(small.output)).tokenizer.encode("<|bos|>") != [991]  # text stays text
    code = [(folder / "nanochat_v2.py").exists() for folder in (done.output, small.output)]
    assert code == [version != "october"] * 2
    if version != "october":
        assert (small.output / "nanochat_v2.py").read_text().startswith('"""nanochat as its current')
    back = convert_back(str(done.output), Options(output=tmp_path / "back"), lambda *_: None, lambda _: None)
    assert tensors_of(back.output / "model_000650.pt").keys() == shapes_of(version, 1024).keys()


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": 10**13},
        {"rows": 10},
        {"rows": "x"},
        {"step": "x"},
        {"step": -1},
        {"meta": [1]},
        {"stored_as": {"lm_head.weight": "int8"}},
        {"meta": {"model_config": {"n_layer": 3}}},
        {"surprise": 1},
    ],
)
def test_a_damaged_record_of_the_original_is_told(damage: dict[str, Any], tmp_path: Path) -> None:
    done, _ = converted(write_checkpoint(tmp_path / "d3"), output=tmp_path / "model")
    config = json.loads((done.output / "config.json").read_text())
    config["nanochat"] |= damage
    (done.output / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError) as error:
        convert_back(str(done.output), Options(output=tmp_path / "x"), lambda *_: None, lambda _: None)
    assert error.value.hint


def test_the_way_back_never_replaces_its_source(tmp_path: Path) -> None:
    done, _ = converted(write_checkpoint(tmp_path / "d3"), output=tmp_path / "model")
    with pytest.raises(ConversionError, match="contains the source"):
        convert_back(
            str(done.output), Options(output=done.output, force=True), lambda *_: None, lambda _: None
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "unheard_of"}, "Model type unheard_of not supported."),
        ({"hidden_size": 32}, "do not fit its config.json"),
        ({"model_type": None}, "names no `model_type`"),
        ({"model_file": "code.py"}, "needs code of its own: `model_file` is 'code.py'"),
    ],
)
def test_a_folder_that_mlx_lm_refuses(llama: Path, change: dict[str, Any], words: str) -> None:
    config = json.loads((llama / "config.json").read_text()) | change
    (llama / "config.json").write_text(json.dumps(config))
    (llama / "code.py").write_text("raise SystemExit('it was run')")
    error = refusal(llama)
    assert words in error.message
    assert error.hint
