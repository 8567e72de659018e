"""Whole conversions of small checkpoints: what is written, proven, refused, and left behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer as FastTokenizer

from grpo_cli.convert import nanochat, verify
from grpo_cli.convert.dtypes import DTYPES, cast
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, Options
from grpo_cli.convert.run import convert
from grpo_cli.convert.to_nanochat import convert_back
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from tests.support.conversions import CHECKS, VERSIONS, converted, refusal, refusal_in, stored
from tests.support.nanochat_checkpoints import TOKENS, shapes_of, tensors_of, write_checkpoint

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_arrives_bit_for_bit(version: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3", version)
    done, checks = converted(source)
    assert done.output == Path("models/d3-mlx")
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in CHECKS]
    arrays = stored(done.output)
    originals = tensors_of(source / "model_000650.pt")
    assert arrays.keys() == originals.keys()
    for name, (dtype, shape, raw) in originals.items():
        wide = cast(np.frombuffer(raw, DTYPES[dtype].bits), DTYPES[dtype], DTYPES["float32"])
        assert arrays[name].dtype == mx.float32
        assert np.array_equal(np.array(arrays[name]), wide.reshape(shape))
    assert done.parameters == sum(array.size for array in arrays.values())
    assert done.source_bytes == (source / "model_000650.pt").stat().st_size
    assert done.output_bytes == (done.output / "model.safetensors").stat().st_size
    assert (done.output / "tokenizer.pkl").read_bytes() == (source / "tokenizer.pkl").read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rows", [TOKENS, 1024])
def test_there_and_back_is_bit_equal(version: str, rows: int, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3", version, rows=rows)
    done, _ = converted(source)
    checks: list[CheckResult] = []
    back = convert_back(str(done.output), Options(), lambda *_: None, checks.append)
    assert back.output == Path("models/d3-nanochat")
    assert [check.passed for check in checks] == [True]
    before, after = (tensors_of(folder / "model_000650.pt") for folder in (source, back.output))
    assert before.keys() == after.keys()
    for name, (dtype, shape, raw) in before.items():
        if version == "october" and rows > TOKENS and name in ("transformer.wte.weight", "lm_head.weight"):
            kept = TOKENS * shape[1] * DTYPES[dtype].size  # rows of no token come back as zeros
            raw = raw[:kept] + bytes(len(raw) - kept)
        assert after[name] == (dtype, shape, raw), name
    assert json.loads((back.output / "meta_000650.json").read_text()) == json.loads(
        (source / "meta_000650.json").read_text()
    )
    assert (back.output / "tokenizer.pkl").read_bytes() == (source / "tokenizer.pkl").read_bytes()


def test_the_embedded_model_goes_back_too(tmp_path: Path) -> None:
    back = convert_back("tiny", Options(output=tmp_path / "back"), lambda *_: None, lambda _: None)
    meta = json.loads((tmp_path / "back/meta_000000.json").read_text())
    assert meta["model_config"] == {
        "sequence_len": 256,
        "vocab_size": 316,
        "n_layer": 4,
        "n_head": 4,
        "n_kv_head": 4,
        "n_embd": 128,
    }
    dtypes = {name: kind for name, (kind, _, _) in tensors_of(tmp_path / "back/model_000000.pt").items()}
    assert {name for name, kind in dtypes.items() if kind == "bfloat16"} == {"transformer.wte.weight"}
    _, checks = converted(back.output, output=tmp_path / "again")
    assert all(check.passed for check in checks)
    assert mx.allclose(
        stored(tmp_path / "again")["lm_head.weight"], stored(TINY)["lm_head.weight"], rtol=0, atol=0
    )


def test_what_is_no_nanochat_does_not_go_back(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "llama")
    config = json.loads((TINY / "config.json").read_text()) | {"model_type": "llama"}
    (tmp_path / "llama/config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError) as error:
        convert_back(str(tmp_path / "llama"), Options(), lambda *_: None, lambda _: None)
    assert error.value.message.endswith("is a llama model, which nanochat cannot run")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_another_number_format(dtype: Any, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    done, checks = converted(source, dtype=dtype)
    how = "bit for bit" if dtype == "float32" else f"rounded to {dtype}"
    assert checks[0].seen == f"20 of 20 tensors equal the original's, {how}"
    assert {array.dtype for array in stored(done.output).values()} == {getattr(mx, dtype)}
    assert json.loads((done.output / "config.json").read_text())["torch_dtype"] == dtype
    assert done.bits_per_weight == pytest.approx(32 if dtype == "float32" else 16, rel=0.03)


def test_what_the_other_programs_need(tmp_path: Path) -> None:
    done, _ = converted(write_checkpoint(tmp_path / "d3"))
    config = json.loads((done.output / "config.json").read_text())
    assert config["eos_token_id"] == [995, 991]
    assert config["bos_token_id"] == 991
    generation = json.loads((done.output / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 991, "eos_token_id": [995, 991]}
    tokenizer = json.loads((done.output / "tokenizer_config.json").read_text())
    assert (tokenizer["bos_token"], tokenizer["eos_token"]) == ("<|bos|>", "<|assistant_end|>")
    assert "<|assistant_start|>" in tokenizer["chat_template"]
    assert FastTokenizer.from_file(str(done.output / "tokenizer.json")).get_vocab_size() == TOKENS


@pytest.mark.parametrize("version", VERSIONS)
def test_quantised(version: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3", version)
    done, checks = converted(source, quantize=True, bits=8, group_size=32)
    assert [check.name for check in checks] == CHECKS
    assert "tensors quantized" in checks[0].seen
    assert 8 < done.bits_per_weight < 17  # not every layer has rows of 32
    exact, rounded = (
        load_policy(str(folder)).model(mx.array([[1, 2, 3]]))
        for folder in (converted(source, output=tmp_path / "exact")[0].output, done.output)
    )
    difference = mx.abs(exact - rounded).max().item()
    assert 0 < difference < 0.5
    assert json.loads((done.output / "config.json").read_text())["nanochat"]["step"] == 650
    assert sorted(path.name for path in done.output.glob("*token*")) == [
        "tokenizer.json",
        "tokenizer.pkl",
        "tokenizer_config.json",
    ]


def test_a_compiled_models_prefix_and_renamed_tensors(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3", prefix="_orig_mod.")
    assert converted(source)[0].parameters == 2 * 32 * TOKENS + 3 * (32 * 32 * 3 + 8 * 32 * 32)
    shapes = {f"blocks.{name}": shape for name, shape in shapes_of("october").items()}
    other = write_checkpoint(tmp_path / "other", shapes=shapes)
    error = refusal_in(other, tmp_path)
    assert "unknown: blocks.transformer.wte.weight" in error.message
    assert converted(other, renames=("blocks.*=*",))[0].output == Path("models/other-mlx")


def test_a_renaming_that_matches_nothing_is_misspelt(tmp_path: Path) -> None:
    error = refusal(write_checkpoint(tmp_path / "d3"), renames=("lm_heat.weight=lm_head.weight",))
    assert "--rename lm_heat.weight=lm_head.weight matches no tensor" in error.message


def test_two_names_for_one_tensor(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    error = refusal(source, renames=("lm_head.weight=transformer.wte.weight",))
    assert "would be named transformer.wte.weight" in error.message


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    shutil.copyfile(TINY / "tokenizer.pkl", source / "tokenizer.pkl")
    error = refusal(source)
    assert error.message == "Failed to convert model: the tokenizer has 316 tokens, the model 1000"
    assert "garbled text" in error.hint


def test_a_corrupted_tokenizer_has_the_guides_first_line(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    (source / "tokenizer.pkl").write_bytes(b"\x80\x04cposix\nsystem\n.")
    error = refusal(source)
    assert error.message.startswith("Failed to load tiktoken tokenizer: ")
    assert "hf download" in error.hint


def test_the_tokenizer_of_nanochats_own_folders_is_found(tmp_path: Path) -> None:
    base = tmp_path / "nanochat"
    (base / "chatsft_checkpoints").mkdir(parents=True)
    (base / "tokenizer").mkdir()
    source = write_checkpoint(base / "chatsft_checkpoints/d3")
    (source / "tokenizer.pkl").rename(base / "tokenizer/tokenizer.pkl")
    assert converted(source)[0].output == Path("models/d3-mlx")
    (base / "tokenizer/tokenizer.pkl").unlink()
    assert "there is no tokenizer.pkl in" in refusal_in(source, tmp_path, force=True).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "meta_000650.json is missing"),
        ("{", "meta_000650.json is not JSON"),
        ("[1]", "meta_000650.json is not a JSON object"),
        ("{}", "meta_000650.json has no model_config"),
        ("[" * 100_000, "meta_000650.json is not JSON"),
        (" " * (5 << 20), "has 5,242,880 bytes, more than such a file can have"),
    ],
)
def test_a_damaged_meta(content: str | None, words: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    if content is None:
        (source / "meta_000650.json").unlink()
    else:
        (source / "meta_000650.json").write_text(content)
    assert words in refusal(source).message


def test_a_damaged_model_leaves_nothing(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    data = bytearray((source / "model_000650.pt").read_bytes())
    data[len(data) // 2] ^= 1  # in a tensor's numbers
    (source / "model_000650.pt").write_bytes(data)
    assert "does not match its checksum" in refusal(source).message


def test_numbers_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "d3")
    monkeypatch.setattr(verify, "is_finite", lambda array: array.shape != (32, 128))
    error = refusal(source)
    layers = ", ".join(f"transformer.h.{layer}.mlp.c_proj.weight" for layer in range(3))
    assert error.message == (
        f"Failed to convert model: the result failed a check (finite: NaN or infinite numbers in {layers})"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_finite(value: float, dtype: mx.Dtype) -> None:
    array = mx.zeros((3, 5))
    assert verify.is_finite(array.astype(dtype))
    array[2, 4] = value
    assert not verify.is_finite(array.astype(dtype))


def test_a_file_that_was_written_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that flips a bit after the writing."""
    source = write_checkpoint(tmp_path / "d3")
    write = nanochat.write_shards

    def write_badly(folder: Path, *rest: Any) -> Any:
        paths = write(folder, *rest)
        data = bytearray(paths[0].read_bytes())
        data[-5] ^= 4
        paths[0].write_bytes(data)
        return paths

    monkeypatch.setattr(nanochat, "write_shards", write_badly)
    assert "(weights: lm_head.weight differ from the source)" in refusal(source).message


def test_no_verify_and_progress(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    seen: list[tuple[str, int, int]] = []
    checks: list[CheckResult] = []
    done = convert(str(source), Options(verify=False), lambda *step: seen.append(step), checks.append)
    assert checks == []
    assert {stage for stage, _, _ in seen} == {"writing"}
    amounts = [amount for _, amount, _ in seen]
    assert amounts[0] == 0 and amounts == sorted(amounts) and len(amounts) == 20
    assert seen[0][2] == sum(array.nbytes for array in stored(done.output).values())


def test_an_existing_output_is_refused_before_anything_else(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "d3")
    converted(source)
    assert "exists already" in refusal_in(source, tmp_path).message
    assert converted(source, force=True)[0].output == Path("models/d3-mlx")
    assert "contains the source" in refusal_in(source, tmp_path, output=source, force=True).message


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "d3")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("grpo_cli.convert.staging.shutil.disk_usage", lambda _: usage)
    assert "the conversion needs 0.0 GB, and" in refusal(source).message
