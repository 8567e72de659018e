"""Loading models: strict, in words, and in the type the device computes in."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import exaone4

from grpo_cli.engine.train import train
from grpo_cli.errors import GrpoError, ModelError
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from grpo_cli.models.tree import flat
from tests.support.chat_models import tokenizer_of
from tests.support.hub_server import HubServer
from tests.support.llama import write_llama
from tests.support.small_runs import small
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


# --- end tokens --------------------------------------------------------------------------------------

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|other|>"]


def ends_of(tmp_path: Path, in_config: Any, in_generation: Any, eos: str | None, template: str | None) -> Any:
    """A llama whose files name these end tokens, loaded; the id of each special token."""
    folder = write_llama(tmp_path / "m")
    tokenizer = tokenizer_of(template, SPECIAL, [], SPECIAL[:1]).wrapped._tokenizer
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL}
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = ids_of(in_config, ids)
    (folder / "config.json").write_text(json.dumps(config))
    if in_generation is not None:
        named = {"eos_token_id": ids_of(in_generation, ids), "top_p": 0.9}
        (folder / "generation_config.json").write_text(json.dumps(named))
    return load_policy(str(folder)), ids


def ids_of(named: Any, ids: dict[str, int]) -> Any:
    return [ids[text] for text in named] if isinstance(named, list) else ids.get(named)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "eos", "template", "ends"),
    [
        ("<|endoftext|>", ["<|im_end|>", "<|other|>"], "<|endoftext|>", None, {0, 2, 3}),
        ("<|endoftext|>", ["<|other|>"], None, None, {3}),  # generation_config.json counts, as in mlx-lm
        (["<|endoftext|>", "<|other|>"], None, None, None, {0, 3}),
        ("<|other|>", None, "<|endoftext|>", None, {0, 3}),
        (None, None, "<|endoftext|>", None, {0}),
        (None, None, None, None, set()),
        (None, None, "<|endoftext|>", CHAT, {0, 2}),  # the template ends a turn with <|im_end|>
        ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", CHAT, {0, 2}),
    ],
)
def test_every_end_token_that_a_model_names(
    tmp_path: Path, in_config: Any, in_generation: Any, eos: str | None, template: str | None, ends: set[int]
) -> None:
    policy, ids = ends_of(tmp_path, in_config, in_generation, eos, template)
    assert policy.tokenizer.eos_ids == {ids[SPECIAL[place]] for place in ends}


def test_a_checkpoint_lists_the_end_tokens_of_the_template(tmp_path: Path) -> None:
    policy, ids = ends_of(tmp_path, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", CHAT)
    both = [ids["<|endoftext|>"], ids["<|im_end|>"]]
    assert policy.config["eos_token_id"] == both
    assert json.loads(policy.generation_config) == {"eos_token_id": both, "top_p": 0.9}


def test_files_that_list_them_stay_as_they_are(tmp_path: Path) -> None:
    policy, ids = ends_of(tmp_path, "<|endoftext|>", ["<|im_end|>"], "<|endoftext|>", CHAT)
    assert policy.config["eos_token_id"] == [ids["<|im_end|>"]]
    assert policy.generation_config == (tmp_path / "m/generation_config.json").read_bytes()


def test_a_tokenizer_without_padding_and_end_token_trains(tmp_path: Path) -> None:
    policy, _ = ends_of(tmp_path, None, None, None, CHAT)
    assert policy.tokenizer.wrapped._tokenizer.pad_token is None
    config = small(
        tmp_path, model_name=str(tmp_path / "m"), system_prompt="Count.", max_steps=1, max_new_tokens=8
    )
    final = train(config)
    assert load_policy(str(final)).tokenizer.eos_ids == policy.tokenizer.eos_ids
