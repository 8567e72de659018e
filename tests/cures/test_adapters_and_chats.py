"""Cures of adapters, conversations and numbers in models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.config.schema import Config
from grpo_cli.environments.make import tooling_of
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.load import load_policy
from grpo_cli.models.quantized import QuantizedCopy, Rounding
from grpo_cli.models.tree import read_json
from tests.support.cure_models import WEIGHTS, adapters, change, llama, tensors
from tests.support.cure_scenarios import Steps, cases_of, toml
from tests.support.random_models import nanochat_policy


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
    hint = yield lambda: add_adapters(policy.model, LoRA(rank=2, layers=99))
    layers = int(hint.partition(",")[0].rpartition("=")[2])
    yield lambda: add_adapters(policy.model, LoRA(rank=2, layers=layers))


def calculator_of_another_model() -> Steps:
    tokenizer: Any = object()  # any but nanochat's
    hint = yield lambda: tooling_of(Config(tools=["calculator"]), tokenizer)
    assert "`tools = []`" in hint
    yield lambda: tooling_of(Config(tools=[]), tokenizer)


def chat(*messages: Mapping[str, Any]) -> object:
    tokenizer: Any = load_policy("tiny").tokenizer
    return tokenizer.encode_prompt(list(messages))


USER = {"role": "user", "content": "2?"}


def message_that_is_no_text() -> Steps:
    assert (yield lambda: chat({"role": "user", "content": 3})) == "write every message as text"
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


def template_without_an_end() -> Steps:
    config = llama() / "tokenizer_config.json"
    whole = config.read_bytes()
    loop = "{% for i in range(99999) %}"
    change(config, chat_template=f"{loop}{loop}{{% endfor %}}{{% endfor %}}")
    hint = yield lambda: load_policy("m")
    assert hint == "copy tokenizer_config.json and chat_template.jinja from the same model"
    config.write_bytes(whole)


def pattern_that_takes_too_long() -> Steps:
    path = llama() / "tokenizer.json"
    whole = path.read_bytes()
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change(path, pre_tokenizer=pattern)
    hint = yield lambda: load_policy("m").tokenizer.encode("a" * 40 + "b")
    assert hint == "copy tokenizer.json and tokenizer_config.json from the same model"
    path.write_bytes(whole)


def role_that_a_template_lacks() -> Steps:
    refused = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    change(llama() / "tokenizer_config.json", chat_template=refused + "{{ m.content }}{% endfor %}")
    policy = load_policy("m")
    asked: list[Any] = [USER, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    hint = yield lambda: policy.tokenizer.encode_prompt(asked)
    known = [message for message in asked if f"`{message['role']}`" in hint]
    yield lambda: policy.tokenizer.encode_prompt(known)


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
    assert "look for a version of the model that mlx-lm and transformers support" in (
        yield lambda: load_policy("m")
    )
    path.write_text(whole)


def quantised_copy_of_nothing() -> Steps:
    policy = nanochat_policy()
    hint = yield lambda: QuantizedCopy(policy.model, Rounding(4, 128), dequantize=False)
    assert toml(hint) == {"group_size": 32}
    yield lambda: QuantizedCopy(policy.model, Rounding(4, **toml(hint)), dequantize=False)


test_a_cure_cures = cases_of(globals())
