"""Cures of models, tokenizers and adapters."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.config.local_model import check_name
from grpo_cli.config.schema import Config
from grpo_cli.models.find import TINY
from grpo_cli.models.load import check_prompts, load_policy
from grpo_cli.models.lora import LoRA, add_adapters, save_adapters
from grpo_cli.models.quantised import QuantisedCopy, Rounding
from grpo_cli.models.tree import read_json
from tests.cures.applied import Steps, command, grpo, toml
from tests.engine.small import nanochat_policy
from tests.support.llama import write_llama

WEIGHTS = "model.safetensors"


def llama(name: str = "m") -> Path:
    """A sound model's folder; the same each time, so that its files can be copied again."""
    return write_llama(Path(name))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def tensors(path: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(path))
    mx.eval(found)
    return dict(found)


def adapters(name: str = "a", base: str = "tiny", layers: int = 0) -> Path:
    """A folder of adapters on a model."""
    policy = load_policy(base)
    lora = LoRA(2, layers=layers)
    add_adapters(policy.model, lora)
    Path(name).mkdir()
    save_adapters(policy.model, lora, base, Path(name))
    return Path(name)


def checkpoint_of_another_number() -> Steps:
    Path("outputs/r/checkpoint-2").mkdir(parents=True)
    Path("outputs/r/checkpoint-2/config.json").write_text("{}")
    assert (yield lambda: check_name("outputs/r/checkpoint-3")) == "there are outputs/r/checkpoint-2"
    yield lambda: check_name("outputs/r/checkpoint-2")


def tiny_misspelt() -> Steps:
    assert (yield lambda: check_name("tniy")).startswith("did you mean `tiny`? ")
    yield lambda: check_name("tiny")


def conversion_not_made() -> Steps:
    llama("my model")
    hint = yield lambda: check_name("models/my model-mlx")
    assert command(hint) == ["convert", "my model"]
    grpo(*command(hint), "--no-verify")


def base_of_adapters_moved() -> Steps:
    llama()
    adapters(base="./m")
    Path("m").rename("moved")
    hint = yield lambda: load_policy("a")
    assert "or write that into `model` of a/adapter_config.json" in hint
    change(Path("a/adapter_config.json"), model="./moved")


def adapter_config_damaged() -> Steps:
    adapters()
    whole = Path("a/adapter_config.json").read_text()
    Path("a/adapter_config.json").write_text(whole[:20])
    assert (yield lambda: load_policy("a")).startswith("copy the folder again")
    Path("a/adapter_config.json").write_text(whole)


def adapters_of_peft() -> Steps:
    """Merging needs peft, which is not installed here; training adapters here is the other cure."""
    llama()
    Path("p").mkdir()
    fields = {"peft_type": "LORA", "base_model_name_or_path": "m", "r": 8}
    Path("p/adapter_config.json").write_text(json.dumps(fields))
    hint = yield lambda: load_policy("p")
    assert "AutoPeftModelForCausalLM as M; M.from_pretrained('p')" in hint
    assert Config.model_validate(toml(hint)).lora_rank == 8
    yield lambda: add_adapters(load_policy("m").model, LoRA(**{"rank": toml(hint)["lora_rank"]}))


def adapters_of_an_unknown_kind() -> Steps:
    adapters()
    change(Path("a/adapter_config.json"), fine_tune_type="full")
    assert "only `lora` and `dora` are supported" in (yield lambda: load_policy("a"))
    change(Path("a/adapter_config.json"), fine_tune_type="lora")


def stale_weights() -> Steps:
    llama()
    whole = tensors(Path("m") / WEIGHTS)
    mx.save_safetensors("m/model-00001-of-00001.safetensors", whole)
    index = {"weight_map": dict.fromkeys(whole, "model-00001-of-00001.safetensors")}
    Path("m/model.safetensors.index.json").write_text(json.dumps(index))
    hint = yield lambda: load_policy("m")
    assert "`mv m/model.safetensors m/model.safetensors.aside`" in hint
    Path("m/model.safetensors").rename("m/model.safetensors.aside")


def no_weights() -> Steps:
    (llama() / WEIGHTS).unlink()
    assert (yield lambda: load_policy("m")) == "copy or download them again"
    shutil.copy(llama("again") / WEIGHTS, "m")


def weights_cut_off() -> Steps:
    path = llama() / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    assert (yield lambda: load_policy("m")) == "copy or download it again"
    shutil.copy(llama("again") / WEIGHTS, "m")


def weights_of_bitsandbytes() -> Steps:
    """The model that was quantised is another folder here, a repository elsewhere."""
    change(
        llama() / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )
    hint = yield lambda: load_policy("m")
    assert command(hint) == ["convert", "OWNER/NAME", "--quantize"] and "download again" not in hint
    llama("original")
    words = ["original" if word == "OWNER/NAME" else word for word in command(hint)]
    grpo(*words, "--no-verify", "--output", "q")
    yield lambda: load_policy("q")


def config_with_a_wrong_field() -> Steps:
    change(llama() / "config.json", num_hidden_layers="two")
    assert (yield lambda: load_policy("m")) == "take config.json from where the weights come from"
    shutil.copy(llama("again") / "config.json", "m")


def config_that_transformers_cannot_read() -> Steps:
    change(llama() / "config.json", id2label=5)
    assert (yield lambda: load_policy("m")) == "take config.json from where the weights come from"
    shutil.copy(llama("again") / "config.json", "m")


def config_that_does_not_run() -> Steps:
    change(llama() / "config.json", num_key_value_heads=4, num_attention_heads=3)
    hint = yield lambda: load_policy("m")
    assert "config.json" in hint
    shutil.copy(llama("again") / "config.json", "m")


def no_model_folder() -> Steps:
    Path("outer").mkdir()
    llama("outer/m")
    hint = yield lambda: load_policy("outer")
    assert hint == "name the folder that holds config.json and model.safetensors"
    yield lambda: load_policy("outer/m")


def tokenizer_missing() -> Steps:
    (llama() / "tokenizer.json").unlink()
    assert "tokenizer.json and tokenizer_config.json of the same model" in (yield lambda: load_policy("m"))
    shutil.copy(llama("again") / "tokenizer.json", "m")


def tokenizer_damaged() -> Steps:
    change(llama() / "tokenizer.json", model={"type": "BPE", "vocab": {"a": "b"}, "merges": []})
    assert "copy tokenizer.json and tokenizer_config.json" in (yield lambda: load_policy("m"))
    shutil.copy(llama("again") / "tokenizer.json", "m")


def weights_of_another_size() -> Steps:
    change(llama() / "config.json", intermediate_size=64)
    assert "must come from the same model" in (yield lambda: load_policy("m"))
    shutil.copy(llama("again") / "config.json", "m")


def nanochat_tokenizer_of_another_run() -> Steps:
    shutil.copytree(TINY, "m", ignore=shutil.ignore_patterns("*.py"))
    shutil.copy(Path(__file__).parents[1] / "fixtures/nanochat/tokenizer.pkl", "m/tokenizer.pkl")
    assert "take tokenizer.pkl from the same nanochat run" in (yield lambda: load_policy("m"))
    shutil.copy(TINY / "tokenizer.pkl", "m")


def nanochat_tokenizer_damaged() -> Steps:
    shutil.copytree(TINY, "m", ignore=shutil.ignore_patterns("*.py"))
    Path("m/tokenizer.pkl").write_bytes(b"not a pickle")
    assert "copy it from the same nanochat run" in (yield lambda: load_policy("m"))
    shutil.copy(TINY / "tokenizer.pkl", "m")


def tokenizer_with_more_ids_than_rows() -> Steps:
    small = tensors(llama() / WEIGHTS)
    cut = {name: array[:300] if array.shape[0] == 316 else array for name, array in small.items()}
    mx.save_safetensors(f"m/{WEIGHTS}", cut)
    change(Path("m/config.json"), vocab_size=300)
    hint = yield lambda: load_policy("m")
    assert "take the tokenizer files from the same model" in hint
    mx.save_safetensors(f"m/{WEIGHTS}", small)  # the same pair again
    change(Path("m/config.json"), vocab_size=316)


def prompt_with_an_id_beyond_the_rows() -> Steps:
    path = llama() / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    change(path, added_tokens=[*added, {**added[-1], "id": 316, "content": "<extra>"}])
    policy = load_policy("m")
    assert (yield lambda: check_prompts(policy, [[5, 316]])).startswith("take it out of the prompts")
    yield lambda: check_prompts(policy, [[5]])


def adapters_on_another_model() -> Steps:
    llama()
    adapters(base="m")
    change(Path("a/adapter_config.json"), model="tiny")
    assert (yield lambda: load_policy("a")) == "load them on the model they were trained on"
    change(Path("a/adapter_config.json"), model="m")


def adapters_cut_off() -> Steps:
    path = adapters() / "adapters.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    assert (yield lambda: load_policy("a")) == "copy the folder again"
    path.write_bytes(whole)


def more_layers_than_there_are() -> Steps:
    policy = load_policy("tiny")
    hint = yield lambda: add_adapters(policy.model, LoRA(2, layers=99))
    layers = int(hint.partition(",")[0].rpartition("=")[2])
    yield lambda: add_adapters(policy.model, LoRA(2, layers=layers))


def chat(*messages: Mapping[str, Any]) -> object:
    tokenizer: Any = load_policy("tiny").tokenizer
    return tokenizer.encode_prompt(list(messages))


USER = {"role": "user", "content": "2?"}


def message_that_is_no_text() -> Steps:
    assert (yield lambda: chat({"role": "user", "content": 3})) == "give every message a text"
    yield lambda: chat(USER)


def part_that_nanochat_lacks() -> Steps:
    answer = {"role": "assistant", "content": [{"type": "image", "text": "x"}]}
    hint = yield lambda: chat(USER, answer, USER)
    kind = hint.split("`")[1]
    yield lambda: chat(USER, {"role": "assistant", "content": [{"type": kind, "text": "x"}]}, USER)


def system_message_alone() -> Steps:
    system = {"role": "system", "content": "a"}
    assert (yield lambda: chat(system)) == "put a user message second"
    yield lambda: chat(system, USER)


def role_that_nanochat_lacks() -> Steps:
    assert "use `user` and `assistant`" in (yield lambda: chat(USER, {"role": "tool", "content": "a"}))
    yield lambda: chat(USER, {"role": "assistant", "content": "a"}, USER)


def template_without_a_system_role() -> Steps:
    refused = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = refused + "{{ messages[0].content }}"
    change(llama() / "tokenizer_config.json", chat_template=template)
    policy = load_policy("m")
    system = Config().system_prompt
    prompt: list[Any] = [{"role": "system", "content": system}, USER]
    hint = yield lambda: policy.tokenizer.encode_prompt(prompt)
    assert toml(hint) == {"system_prompt": ""}
    without: list[Any] = [USER]
    yield lambda: policy.tokenizer.encode_prompt(without)


def json_missing() -> Steps:
    llama()
    assert (yield lambda: read_json(Path("config.json"))) == "name the folder of a model"
    yield lambda: read_json(Path("m/config.json"))


def json_damaged() -> Steps:
    path = llama() / "config.json"
    whole = path.read_text()
    path.write_text("{")
    assert (yield lambda: read_json(path)) == "copy or download it again"
    path.write_text(whole)


def weights_that_are_nan() -> Steps:
    whole = tensors(llama() / WEIGHTS)
    broken = whole | {"model.norm.weight": whole["model.norm.weight"] * mx.nan}
    mx.save_safetensors(f"m/{WEIGHTS}", broken)
    hint = yield lambda: load_policy("m")
    assert hint == "take an earlier checkpoint, or download the weights again"
    mx.save_safetensors(f"m/{WEIGHTS}", whole)


def weights_that_are_too_large() -> Steps:
    whole = tensors(llama() / WEIGHTS)
    scales = {"model.embed_tokens.weight": 1e4, "model.norm.weight": 3e38}
    huge = {name: whole[name] * scale for name, scale in scales.items()}
    mx.save_safetensors(f"m/{WEIGHTS}", whole | huge)
    assert "far too large" in (yield lambda: load_policy("m"))
    mx.save_safetensors(f"m/{WEIGHTS}", whole)


def model_with_code_of_its_own() -> Steps:
    change(llama() / "config.json", model_file="code.py")
    assert (yield lambda: load_policy("m"))
    change(Path("m/config.json"), model_file=None)  # such a version


def tokenizer_that_names_code() -> Steps:
    path = llama() / "tokenizer_config.json"
    whole = path.read_text()
    change(path, chat_template_type="os")
    assert "look for a version of the model that mlx-lm and transformers know" in (
        yield lambda: load_policy("m")
    )
    path.write_text(whole)


def quantised_copy_of_nothing() -> Steps:
    policy = nanochat_policy()
    hint = yield lambda: QuantisedCopy(policy.model, Rounding(4, 128), dequantise=False)
    assert toml(hint) == {"group_size": 32}
    yield lambda: QuantisedCopy(policy.model, Rounding(4, **toml(hint)), dequantise=False)
