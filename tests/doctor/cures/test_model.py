"""Cures of a model's folder: files fetched again from a stand-in for the hub, lines written into its JSON."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.doctor.findings import Finding
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.load import load_policy
from tests.support.cure_scenarios import grpo
from tests.support.doctor_cures import Cure, cases_of, command, run_shell
from tests.support.doctor_findings import TINY, Here, fast_copy, look, tiny_copy
from tests.support.model_damage import edit_json, rewritten
from tests.support.nanochat_checkpoints import FIXTURES, write_checkpoint

LOOP = "{%- for m in messages -%}{{- m['content'] -}}{%- endfor -%}"
TURN = "{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"
NO_SYSTEM = "{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('none') -}}{%- endif -%}"


def model(make: Any = fast_copy) -> Path:
    """A sound model in `m`, which the stand-in for the hub has too."""
    make(Path("hub"))
    shutil.copytree("hub", "m")
    return Path("m")


def at(*checks: str, **named: Any) -> list[Finding]:
    return look(Here(model="m", **named), *checks)


def fetch(finding: Finding) -> None:
    """Run the finding's command that downloads."""
    run_shell(next(line for line in finding.commands if line.startswith("hf download ")))


def a_weight_file_that_is_cut_off() -> Cure:
    path = model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    fetch((yield lambda: at("model-files")))


def weights_of_a_pickle() -> Cure:
    (model() / "model.safetensors").rename("m/pytorch_model.bin")
    finding = yield lambda: at("model-files")
    assert finding.cure.endswith("look for a revision or a repository with `.safetensors` files")
    shutil.copyfile("hub/model.safetensors", "m/model.safetensors")  # that repository


def weights_of_nanochat() -> Cure:
    write_checkpoint(Path("m"))
    line = command((yield lambda: at("model-files")), "grpo convert")
    grpo(*line[1:], "--output", "new")
    yield lambda: look(Here(model="new"), "model-files")


def a_stale_weight_file() -> Cure:
    mx.save_safetensors(str(model() / "model-x y.safetensors"), {"lm_head.weight": mx.zeros((2, 2))})
    finding = yield lambda: at("model-files")
    run_shell(finding.commands[0])


def a_config_of_another_model() -> Cure:
    edit_json(model() / "config.json", hidden_size=64)
    fetch((yield lambda: at("model-weights")))


def weights_of_another_model() -> Cure:
    def drop(arrays: Any) -> None:
        del arrays["lm_head.weight"]

    rewritten(model(), drop)
    fetch((yield lambda: at("model-weights")))


def a_number_that_is_nan() -> Cure:
    def change(arrays: Any) -> None:
        arrays["transformer.h.2.mlp.c_fc.weight"][3, 4] = math.nan

    rewritten(model(), change)
    fetch((yield lambda: at("model-values")))


def a_damaged_tokenizer() -> Cure:
    (model() / "tokenizer.json").write_text("{")
    fetch((yield lambda: at("tokenizer")))


def adapters_whose_base_is_gone() -> Cure:
    base = tiny_copy(Path("base"))
    policy = load_policy(str(base))
    add_adapters(policy.model, LoRA(rank=2))
    Path("m").mkdir()
    save_adapters(policy.model, LoRA(rank=2), str(base.absolute()), Path("m"))
    base.rename("moved")
    finding = yield lambda: at("tokenizer")
    assert "write its new place into `model` of m/adapter_config.json" in finding.cure
    edit_json(Path("m/adapter_config.json"), model=str(Path("moved").absolute()))


def larger_tokenizer(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"zz{number}": 1000 + number for number in range(700)}


def a_tokenizer_beyond_the_rows() -> Cure:
    model()
    shutil.rmtree("m")
    fast_copy(Path("m"), larger_tokenizer)
    fetch((yield lambda: at("vocabulary")))


def a_tokenizer_of_a_smaller_model() -> Cure:
    def padded(folder: Path) -> Path:
        def grow(arrays: Any) -> None:
            for name in ("transformer.wte.weight", "lm_head.weight"):
                arrays[name] = mx.concatenate([arrays[name], mx.zeros((49_000, 128))])

        return rewritten(fast_copy(folder, lambda content: larger_by(content, 48_000)), grow)

    model(padded)
    shutil.copyfile(fast_copy(Path("small")) / "tokenizer.json", "m/tokenizer.json")
    fetch((yield lambda: at("vocabulary")))


def larger_by(content: dict[str, Any], count: int) -> None:
    content["model"]["vocab"] |= {f"zz{number}": 316 + number for number in range(count)}


def a_nanochat_tokenizer_of_another_size() -> Cure:
    def larger(folder: Path) -> Path:
        def grow(arrays: Any) -> None:
            for name in ("transformer.wte.weight", "lm_head.weight"):
                arrays[name] = mx.ones((1000, 128))

        tiny_copy(folder)
        edit_json(folder / "config.json", vocab_size=1000)
        shutil.copyfile(FIXTURES / "tokenizer.pkl", folder / "tokenizer.pkl")  # of 1,000 tokens
        return rewritten(folder, grow)

    model(larger)
    shutil.copyfile(TINY / "tokenizer.pkl", "m/tokenizer.pkl")
    fetch((yield lambda: at("vocabulary")))


def a_tokenizer_that_loses_letters() -> Cure:
    def deaf(content: dict[str, Any]) -> None:
        content["normalizer"] = {"type": "Lowercase"}

    model()
    shutil.rmtree("m")
    fast_copy(Path("m"), deaf)
    fetch((yield lambda: at("round-trip")))


def a_special_token_of_another_template() -> Cure:
    edit_json(model() / "tokenizer_config.json", chat_template="{{- '<|im_start|>' -}}" + LOOP + TURN)
    fetch((yield lambda: at("special-tokens")))


def a_special_token_beyond_the_rows() -> Cure:
    def far(content: dict[str, Any]) -> None:
        content["added_tokens"].append({**content["added_tokens"][-1], "id": 999, "content": "<|far|>"})

    model()
    shutil.rmtree("m")
    fast_copy(Path("m"), far)
    fetch((yield lambda: at("special-tokens")))


def no_end_token() -> Cure:
    folder = model()
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        for key in ("eos_token_id", "eos_token"):
            content.pop(key, None)
        (folder / name).write_text(json.dumps(content))
    finding = yield lambda: at("end-tokens")
    assert "add it to config.json" in finding.cure
    edit_json(folder / "config.json", **json.loads(f"{{{finding.commands[0]}}}".replace("ID", "311")))


def an_end_token_beyond_the_vocabulary() -> Cure:
    edit_json(model() / "config.json", eos_token_id=9000)
    fetch((yield lambda: at("end-tokens")))


def a_turn_that_ends_no_completion() -> Cure:
    folder = model()
    edit_json(folder / "tokenizer_config.json", eos_token="<|bos|>")
    edit_json(folder / "config.json", eos_token_id=307)
    assert not (folder / "generation_config.json").exists()
    finding = yield lambda: at("end-tokens")
    assert str(folder / "generation_config.json") in finding.cure
    (folder / "generation_config.json").write_text(f"{{{finding.commands[0]}}}")


def a_template_that_says_nothing() -> Cure:
    edit_json(model() / "tokenizer_config.json", chat_template="{{- '' -}}")
    fetch((yield lambda: at("chat-template")))


def a_template_without_the_assistants_turn() -> Cure:
    edit_json(model() / "tokenizer_config.json", chat_template=LOOP)
    fetch((yield lambda: at("chat-template")))


def a_template_that_fails() -> Cure:
    edit_json(model() / "tokenizer_config.json", chat_template="{{ 1 / 0 }}")
    fetch((yield lambda: at("chat-template")))


def a_template_in_a_file_that_fails() -> Cure:
    (model() / "chat_template.jinja").write_text(LOOP + TURN)
    shutil.copyfile("m/chat_template.jinja", "hub/chat_template.jinja")
    Path("m/chat_template.jinja").write_text("{{ 1 / 0 }}")
    fetch((yield lambda: at("chat-template")))


test_a_cure_cures = cases_of(globals())
