"""Rules between keys: each is broken by one configuration and kept by its neighbour."""

# ruff: noqa: E501 - one case a line

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from grpo_cli.config.fields import choices
from grpo_cli.config.rules import RULES, breaches
from grpo_cli.config.schema import Config

BROKEN = [
    ({"reward_functions": ["corectness"]}, "error", "Unknown reward function: corectness"),
    ({"tools": ["calclator"]}, "error", "Unknown tool: calclator"),
    ({"reward_functions": ["my.py"]}, "error", "Reward function not named: my.py"),
    ({"reward_functions": ["my.py:"]}, "error", "Reward function not named: my.py:"),
    ({"learning_rate": 0.0}, "warning", "learning_rate = 0.0 trains nothing: the model does not change"),
    ({"learning_rate": 0.01}, "warning", "learning_rate = 0.01 is very high for full fine-tuning with adamw"),
    ({"learning_rate": 0.1, "lora_rank": 8}, "warning", "learning_rate = 0.1 is very high for LoRA with adamw"),
    ({"warmup_ratio": 1.0}, "warning", "warmup_ratio = 1 makes the whole run warmup"),
    ({"warmup_ratio": 0.9, "max_steps": 4}, "warning", "warmup_ratio = 0.9 makes all 4 steps of max_steps warmup"),
    ({"save_steps": 500, "max_steps": 100}, "warning", "save_steps = 500 is beyond the last step, max_steps = 100: nothing is saved before the end"),
    ({"max_train_samples": 3}, "warning", "max_train_samples = 3 is less than one step's 4 prompts, batch_size × gradient_accumulation_steps: a step uses some of them more than once"),
    ({"microbatch_tokens": 511}, "warning", "microbatch_tokens = 511 is less than the longest completion, max_new_tokens = 512: longer ones exceed it"),
    ({"num_generations": 1}, "error", "num_generations = 1 cannot learn: a group needs at least 2 completions"),
    ({"reward_functions": ["int"], "reward_weights": [1.0, 2.0]}, "error", "reward_weights has length 2, reward_functions has length 1"),
    ({"reward_functions": ["int"], "eval_reward": "mine.py:f"}, "error", "eval_reward = 'mine.py:f' is neither built in nor one of reward_functions"),
    ({"answer_column": "", "reward_functions": ["correctness"], "eval_steps": 0}, "error", 'Reward correctness needs answers, but answer_column is ""'),
    ({"answer_column": "", "reward_functions": ["int"]}, "error", 'Accuracy needs answers, but answer_column is ""'),
    ({"reward_functions": ["int"], "reward_weights": [0.0]}, "error", "reward_weights are all 0: every reward would be 0"),
    ({"repetition_penalty": 1.2}, "error", "repetition_penalty = 1.2 is refused in training"),
    ({"lora_dropout": 0.1, "lora_rank": 8}, "error", "lora_dropout = 0.1 is refused in training"),
    ({"lora_layers": 4}, "warning", "lora_layers = 4 has no effect: lora_rank is 0, full fine-tuning"),
    ({"lora_type": "dora"}, "warning", 'lora_type = "dora" has no effect: lora_rank is 0, full fine-tuning'),
    ({"use_rslora": True}, "warning", "use_rslora = true has no effect: lora_rank is 0, full fine-tuning"),
    ({"eval_split": "train"}, "error", 'eval_split = "train" is the training split'),
    ({"loss_type": "reinforce", "num_iterations": 2}, "error", 'num_iterations = 2 does not work with loss_type = "reinforce"'),
    ({"loss_type": "reinforce", "steps_per_generation": 2}, "error", 'steps_per_generation = 2 does not work with loss_type = "reinforce"'),
    ({"dynamic_sampling_budget": 4}, "warning", "dynamic_sampling_budget = 4 has no effect: dynamic_sampling is false"),
    ({"loss_type": "reinforce", "scale_rewards": "batch"}, "warning", 'scale_rewards = "batch" has no effect: reinforce does not scale advantages'),
    ({"loss_type": "reinforce", "importance_sampling_level": "sequence"}, "error", 'importance_sampling_level = "sequence" does not work with loss_type = "reinforce"'),
    ({"loss_type": "cispo", "delta": 4.0}, "warning", 'delta = 4.0 has no effect: loss_type = "cispo" has no clip'),
    ({"delta": 1.3, "clip_eps_high": 0.3}, "error", "delta = 1.3 is not above the upper clip, 1.3"),
    ({"delta": 1.1}, "error", "delta = 1.1 is not above the upper clip, 1.2"),
    ({"kl_estimator": "k1"}, "warning", 'kl_estimator = "k1" has no effect: kl_coeff is 0'),
    ({"use_bias_correction_kl": True}, "warning", "use_bias_correction_kl = true has no effect: kl_coeff is 0"),
    ({"soft_overlong_tokens": 513}, "error", "soft_overlong_tokens = 513 is more than max_new_tokens = 512"),
    ({"importance_sampling_mode": "token_mask"}, "warning", 'importance_sampling_mode = "token_mask" has no effect: quantize_for_rollouts is false'),
    ({"importance_sampling_cap": 3.0}, "warning", "importance_sampling_cap = 3.0 has no effect: quantize_for_rollouts is false"),
    ({"quantize_for_rollouts": True, "loss_type": "gspo", "importance_sampling_mode": "token_mask"}, "warning", 'importance_sampling_mode = "token_mask" is applied by sequence here, as the ratio of the loss is'),
    ({"quantize_for_rollouts": True, "importance_sampling_level": "sequence", "importance_sampling_mode": "token_mask"}, "warning", 'importance_sampling_mode = "token_mask" is applied by sequence here, as the ratio of the loss is'),
    ({"top_p": 0.9}, "warning", "top_p = 0.9 cuts tokens off while sampling, and those are never explored"),
    ({"top_k": 20}, "warning", "top_k = 20 cuts tokens off while sampling, and those are never explored"),
    ({"min_p": 0.1}, "warning", "min_p = 0.1 cuts tokens off while sampling, and those are never explored"),
    ({"temperature": 0.01}, "warning", "temperature = 0.01 makes the completions of a group identical"),
]  # fmt: skip

KEPT: list[dict[str, Any]] = [
    {},
    {"num_generations": 2},
    {"reward_functions": ["int"], "reward_weights": [2.0]},
    {"reward_functions": ["int", "xmlcount"], "reward_weights": [0.0, 1.0]},
    {"lora_layers": 4, "lora_rank": 8},
    {"lora_type": "dora", "use_rslora": True, "lora_rank": 8},
    {"eval_split": "train", "eval_steps": 0},
    {"loss_type": "reinforce", "scale_rewards": "none"},
    {"loss_type": "reinforce"},
    {"loss_type": "dapo", "num_iterations": 2},
    {"loss_type": "dapo", "steps_per_generation": 2},
    {"dynamic_sampling": True, "dynamic_sampling_budget": 4},
    {"quantize_for_rollouts": True, "bits": 2, "group_size": 32},
    {"quantize_for_rollouts": True, "loss_type": "gspo"},
    {
        "quantize_for_rollouts": True,
        "importance_sampling_mode": "sequence_mask",
        "importance_sampling_cap": 3.0,
    },
    {"temperature": 0.05},
    {"reward_functions": ["correctness_reward_func", "my.py:reward"]},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-2, "lora_rank": 8},
    {"learning_rate": 0.1, "optimizer": "sgd"},
    {"warmup_ratio": 0.85, "max_steps": 4},
    {"warmup_ratio": 1.0, "max_steps": 1},
    {"save_steps": 100, "max_steps": 100},
    {"max_steps": 10},
    {"save_steps": 0, "eval_steps": 0, "max_steps": 10},
    {"max_train_samples": 4},
    {"microbatch_tokens": 512},
    {"loss_type": "gspo", "importance_sampling_level": "sequence", "delta": 1.5},
    {"loss_type": "cispo", "importance_sampling_level": "sequence"},
    {"clip_eps_high": 0.3, "delta": 1.4},
    {"kl_coeff": 0.1, "kl_estimator": "k1", "use_bias_correction_kl": True},
    {"soft_overlong_tokens": 512},
]


@pytest.mark.parametrize(("values", "severity", "message"), BROKEN, ids=[row[2] for row in BROKEN])
def test_a_broken_rule_says_so(values: dict[str, Any], severity: str, message: str) -> None:
    (breach,) = breaches(Config.model_validate(values))
    assert (breach.severity, breach.message) == (severity, message)
    assert breach.keys[0] in values
    assert any(
        start in breach.cure for start in ("write `", "begin with `", "did you mean `", "reward_weights")
    )


@pytest.mark.parametrize("values", KEPT, ids=str)
def test_a_sound_configuration_breaks_nothing(values: dict[str, Any]) -> None:
    assert list(breaches(Config.model_validate(values))) == []


def test_every_rule_has_a_case_that_breaks_it() -> None:
    configs = [Config.model_validate(values) for values, *_ in BROKEN]
    silent = [rule.__name__ for rule in RULES if not any(list(rule(config)) for config in configs)]
    assert silent == []


def local_breaches(**values: Any) -> list[tuple[str, str, str]]:
    found = breaches(Config.model_validate(values), on_this_machine=True)
    return [(breach.severity, breach.message, breach.trouble) for breach in found]


def model(folder: Path, **facts: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(facts))
    return str(folder)


def test_a_reward_file_must_be_there_and_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    name = f"{file}:reward"
    expected = ("error", f"Reward file not found: {file}", "rewards")
    assert local_breaches(reward_functions=[name]) == [expected]
    file.write_text("raise SystemExit(3)")
    assert local_breaches(reward_functions=[name]) == []
    assert list(breaches(Config(reward_functions=[f"{tmp_path}/no.py:f"]))) == []


def test_completions_longer_than_the_model_s_positions(tmp_path: Path) -> None:
    name = model(tmp_path / "m", n_positions=100)
    assert local_breaches(model_name=name, max_new_tokens=100, max_prompt_length=20) == [
        ("warning", f"max_new_tokens = 100 is too long: {name} has 100 positions", "row-too-long")
    ]
    assert local_breaches(model_name=name, max_new_tokens=81, max_prompt_length=20) == [
        (
            "warning",
            "max_prompt_length = 20 and max_new_tokens = 81 allow rows of up to 101 tokens: "
            f"{name} has 100 positions",
            "row-too-long",
        )
    ]
    assert local_breaches(model_name=name, max_new_tokens=80, max_prompt_length=20) == []
    # The default of max_prompt_length is beyond all positions and says nothing of the prompts.
    assert local_breaches(model_name=name, max_new_tokens=80) == []


@pytest.mark.parametrize(
    "facts",
    [{"max_position_embeddings": 50}, {"sequence_len": 50}, {"text_config": {"max_position_embeddings": 50}}],
)
def test_positions_are_found_under_every_name(tmp_path: Path, facts: dict[str, object]) -> None:
    assert local_breaches(model_name=model(tmp_path / "m", **facts), max_new_tokens=60)[0][0] == "warning"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", '{"n_positions": "50"}', '{"n_positions": true}', '{"n_positions": -5}', "\x00",
     '{"n_positions": 1e999}', "[" * 100_000, '{"text_config": 3}',
     '{"n_positions": 50, "rope_scaling": {"factor": 4}}'],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_broken_config_json_is_not_judged(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert local_breaches(model_name=str(tmp_path), max_new_tokens=60) == []


def test_a_model_in_the_hub_s_cache_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model(tmp_path / "models--a--b" / "snapshots" / "1", n_positions=50)
    message = "max_new_tokens = 60 is too long: a/b has 50 positions"
    assert local_breaches(model_name="a/b", max_new_tokens=60) == [("warning", message, "row-too-long")]
    assert local_breaches(model_name="a/c", max_new_tokens=60) == []


@pytest.mark.parametrize("name", ["models/nanochat-d32-mlx", "karpathy/nanochat-d34"])
def test_quantised_rollouts_of_a_deep_nanochat_are_like_any_other(name: str, tmp_path: Path) -> None:
    """The guide forbids them; here they are corrected, as tests/engine/rollout/test_quantized_policy.py shows."""
    assert local_breaches(model_name=name, quantize_for_rollouts=True) == []
    deep = model(tmp_path / "x", model_type="nanochat", num_hidden_layers=32)
    assert local_breaches(model_name=deep, quantize_for_rollouts=True) == []


def test_eval_reward_is_built_in_or_one_of_reward_functions() -> None:
    for name in ("", "last_number", "correctness", "mine.py:f"):
        config = Config(reward_functions=["correctness", "mine.py:f"], eval_reward=name)
        assert not [found for found in breaches(config) if "eval_reward" in found.keys]
    unknown = Config(reward_functions=["correctness"], eval_reward="mine.py:f")
    [found] = [found for found in breaches(unknown) if "eval_reward" in found.keys]
    assert found.message == "eval_reward = 'mine.py:f' is neither built in nor one of reward_functions"
    assert 'eval_reward = "correctness"' in found.cure


def candidates(key: str) -> list[Any]:
    """A key's default and values beside it: all of a choice, both booleans, small and large numbers."""
    value = Config.model_fields[key].default
    if choices(key):
        return list(choices(key))
    if isinstance(value, bool):
        return [False, True]
    if isinstance(value, int):
        return [value, 0, 1, 3, 600]
    return [value, 0.0, 0.01, 0.9, 1.0, 5.0] if isinstance(value, float) else [value]


def warnings_of(values: dict[str, Any]) -> set[str] | None:
    """What a configuration of these keys is warned of; None where it is not valid."""
    try:
        found = list(breaches(Config.model_validate(values), on_this_machine=True))
    except ValidationError:
        return None
    return {breach.message for breach in found if breach.severity == "warning"}


@pytest.mark.parametrize(
    "base",
    [{}, {"loss_type": "reinforce"}, {"loss_type": "gspo", "quantize_for_rollouts": True}, {"lora_rank": 8}],
    ids=str,
)
def test_a_file_that_holds_every_key_is_warned_of_nothing_more(base: dict[str, Any]) -> None:
    base = {"model_name": "tiny", **base}
    found = 0
    for key in Config.model_fields:
        for value in candidates(key):
            meant = {**base, key: value}
            if (warned := warnings_of(meant)) is None:
                continue
            everything = Config.model_validate(meant).model_dump()
            assert warnings_of(everything) == warned, (key, value)
            found += bool(warned)
    assert found > 5
