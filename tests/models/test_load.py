"""Loading models: strict, in words, and in the type the device computes in."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import exaone4

from grpo_cli.errors import GrpoError, ModelError
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.tree import flat
from tests.support.hub_server import HubServer
from tests.support.llama import write_llama
from tests.support.waiting import no_wait_forever


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model's folder."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "tokenizer.pkl")
    for name in names:
        shutil.copyfile(TINY / name, tmp_path / name)
    return tmp_path


def weights(folder: Path) -> dict[str, mx.array]:
    return flat(mx.load(str(folder / "model.safetensors")))


def test_the_embedded_model_loads_by_name_and_by_folder(folder: Path) -> None:
    named, copied = load_policy("tiny"), load_policy(str(folder))
    ids = mx.array([[1, 2, 3]])
    assert mx.array_equal(named.model(ids), copied.model(ids))
    assert named.source == "tiny"
    assert named.parameter_count == sum(array.size for array in weights(folder).values())


def test_half_precision_files_are_computed_in_float32_on_the_cpu(folder: Path) -> None:
    halves = {name: array.astype(mx.bfloat16) for name, array in weights(folder).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), halves)
    if mx.default_device() == mx.Device(mx.cpu):
        assert {array.dtype for array in flat(load_policy(str(folder)).model.parameters()).values()} == {
            mx.float32
        }
    forced = load_policy(str(folder), dtype="bfloat16").model.parameters()
    assert {array.dtype for array in flat(forced).values()} == {mx.bfloat16}


def test_a_quantised_model_is_dequantised_on_the_cpu(folder: Path) -> None:
    policy = load_policy(str(folder))
    config = json.loads((folder / "config.json").read_text())
    nn.quantize(policy.model, group_size=64, bits=8)
    mx.save_safetensors(str(folder / "model.safetensors"), flat(policy.model.parameters()))
    config["quantization"] = {"group_size": 64, "bits": 8}
    (folder / "config.json").write_text(json.dumps(config))
    ids = mx.array([[1, 2, 3]])
    loaded = load_policy(str(folder), for_training=True)
    assert "quantization" not in loaded.config
    assert not any(isinstance(module, nn.QuantizedLinear) for module in loaded.model.modules())
    assert mx.allclose(loaded.model(ids), policy.model(ids), atol=1e-3)


def refused(folder: Path | str) -> ModelError:
    with pytest.raises(ModelError) as error:
        load_policy(str(folder))
    assert error.value.hint
    return error.value


def test_a_missing_tensor_is_refused_not_filled_with_noise(folder: Path) -> None:
    arrays = weights(folder)
    del arrays["lm_head.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    error = refused(folder)
    assert error.message.startswith(f"The weights in {folder} do not fit its config.json:")
    assert "lm_head.weight" in error.message


def test_a_truncated_file_is_refused(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:1000])
    told = f"{folder / 'model.safetensors'} is cut off: its header alone has "
    assert refused(folder).message.startswith(told)


def test_a_wrong_tokenizer_is_refused_before_it_makes_garbage(folder: Path) -> None:
    arrays = weights(folder)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        arrays[name] = arrays[name][:100]
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    assert refused(folder).message == f"The tokenizer in {folder} has 316 tokens, the model 100"


def test_a_corrupted_tokenizer_has_the_guides_first_line(folder: Path) -> None:
    (folder / "tokenizer.pkl").write_bytes(b"\x80\x04garbage")
    assert refused(folder).message.startswith("Failed to load tiktoken tokenizer: ")


def test_what_is_no_model_is_said_so(folder: Path) -> None:
    assert refused("no/such/folder/here").message == "Model not found: no/such/folder/here"
    (folder / "model.safetensors").unlink()
    assert refused(folder).message == f"{folder} holds no weights (model*.safetensors)"
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(folder).message
    (folder / "config.json").unlink()
    assert "is not a model folder: config.json is missing" in refused(folder).message


def test_a_model_that_was_not_converted_yet() -> None:
    assert refused("models/nanochat-d32-mlx").hint == "create it: `grpo convert nanochat-d32`"


def test_a_repository_without_a_network_says_what_to_do() -> None:
    error = refused("nobody/nothing")
    expected = "nobody/nothing is not in the local cache, and HF_HUB_OFFLINE=1 forbids downloading it"
    assert error.message == expected
    assert "hf download nobody/nothing" in error.hint


def test_a_repository_is_fetched_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        path.name: path for path in TINY.iterdir() if path.suffix in (".json", ".safetensors", ".pkl", ".py")
    }
    with HubServer({"owner/tiny": files}) as server:
        server.use(monkeypatch, tmp_path)
        policy = load_policy("owner/tiny")
    assert policy.parameter_count == load_policy("tiny").parameter_count
    assert {path.name for path in policy.path.iterdir()} == {
        name for name in files if not name.endswith(".py")
    }


def test_a_config_over_which_transformers_breaks_down_keeps_no_tokenizer_from_loading(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    fields = json.loads((folder / "config.json").read_text()) | {
        "model_type": "exaone4", "head_dim": 16, "tie_word_embeddings": True, "rope_theta": 10000.0,
        "max_position_embeddings": 256, "sliding_window": 8, "sliding_window_pattern": "LG",
        "rope_scaling": None,
    }  # fmt: skip
    model = exaone4.Model(exaone4.ModelArgs.from_dict(fields))
    mx.save_safetensors(str(folder / "model.safetensors"), flat(model.parameters()))
    (folder / "config.json").write_text(json.dumps(fields))
    assert load_policy(str(folder)).tokenizer.encode("What") == load_policy("tiny").tokenizer.encode("What")


RECEIVED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "tokenizer.pkl")


@pytest.mark.parametrize("name", [*RECEIVED, "generation_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("kept", [RECEIVED, RECEIVED[:-1]])
def test_a_pipe_in_a_received_folder_is_not_waited_for(
    folder: Path, name: str, kept: tuple[str, ...]
) -> None:
    if name not in kept and name in RECEIVED:
        pytest.skip("the other tokenizer's file is what is taken away here")
    for other in {*RECEIVED} - {*kept}:
        (folder / other).unlink()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with no_wait_forever(), suppress(GrpoError):
        load_policy(str(folder))
