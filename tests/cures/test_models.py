"""Cures of models and tokenizers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.config.local_model import check_name
from grpo_cli.config.schema import Config
from grpo_cli.engine.setup import trainable_policy
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.find import TINY
from grpo_cli.models.load import check_prompts, load_policy
from tests.support.cure_models import WEIGHTS, adapters, change, llama, tensors
from tests.support.cure_scenarios import Steps, cases_of, command, grpo, toml
from tests.support.peft_folders import path_of, peft_tensors, write_peft


def checkpoint_of_another_number() -> Steps:
    Path("outputs/r/checkpoint-2").mkdir(parents=True)
    Path("outputs/r/checkpoint-2/config.json").write_text("{}")
    assert (yield lambda: check_name("outputs/r/checkpoint-3")) == "available: outputs/r/checkpoint-2"
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
    assert "or write DIR into `model` of a/adapter_config.json" in hint
    config = Config(model_name="./moved", adapter=command_words(hint)["adapter"], dtype="float32")
    assert trainable_policy(config).start
    change(Path("a/adapter_config.json"), model="./moved")


def base_of_peft_moved() -> Steps:
    peft()
    Path("m").rename("moved")
    hint = yield lambda: load_policy("p")
    assert "or write DIR into `base_model_name_or_path` of p/adapter_config.json" in hint
    change(Path("p/adapter_config.json"), base_model_name_or_path="./moved")


def command_words(hint: str) -> dict[str, str]:
    """The keys of the `--set` options that a hint names."""
    return dict(re.findall(r"--set '?(\w+)=([^\s'`]+)", hint))


def adapter_config_damaged() -> Steps:
    adapters()
    whole = Path("a/adapter_config.json").read_text()
    Path("a/adapter_config.json").write_text(whole[:20])
    assert (yield lambda: load_policy("a")).startswith("copy the folder again")
    Path("a/adapter_config.json").write_text(whole)


def peft(**settings: Any) -> None:
    """Adapters of PEFT on the small llama, in the folder p."""
    llama()
    write_peft(Path("p"), peft_tensors({path_of(0, "q_proj"): 4}), Path("m"), **settings)


def peft_without_a_counterpart() -> Steps:
    """Merging needs peft, which is not installed here; training adapters here is the other cure."""
    peft(init_lora_weights="pissa")
    hint = yield lambda: load_policy("p")
    assert "AutoPeftModelForCausalLM as M; M.from_pretrained('p')" in hint
    assert Config.model_validate(toml(hint)).lora_rank == 8
    yield lambda: add_adapters(load_policy("m").model, LoRA(**{"rank": toml(hint)["lora_rank"]}))


def peft_only_as_a_pickle() -> Steps:
    peft()
    Path("p/adapter_model.safetensors").rename("p/adapter_model.bin")
    hint = yield lambda: load_policy("p")
    assert "`save_pretrained(…, safe_serialization=True)`" in hint
    Path("p/adapter_model.bin").rename("p/adapter_model.safetensors")  # as peft writes it again


def peft_cut_off() -> Steps:
    peft()
    path = Path("p/adapter_model.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    assert (yield lambda: load_policy("p")) == "copy the folder again"
    path.write_bytes(whole)


def peft_with_whole_modules() -> Steps:
    llama()
    norm = {"base_model.model.model.norm.weight": mx.full((64,), 1.5)}
    write_peft(Path("p"), peft_tensors({path_of(0, "q_proj"): 4}) | norm, Path("m"), modules_to_save=["norm"])
    hint = yield lambda: load_policy("p")
    grpo(*command(hint), "--no-verify", "--output", "fused")
    yield lambda: load_policy("fused")


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
    assert (yield lambda: load_policy("m")) == "copy config.json from the source of the weights"
    shutil.copy(llama("again") / "config.json", "m")


def config_that_transformers_cannot_read() -> Steps:
    change(llama() / "config.json", id2label=5)
    assert (yield lambda: load_policy("m")) == "copy config.json from the source of the weights"
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
    assert (yield lambda: check_prompts(policy, [[5, 316]])).startswith("remove it from the prompts")
    yield lambda: check_prompts(policy, [[5]])


test_a_cure_cures = cases_of(globals())
