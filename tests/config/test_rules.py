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
from tests.support.broken_configs import BROKEN

KEPT: list[dict[str, Any]] = [
    {},
    {"num_generations": 2},
    {"num_generations": 1, "advantage_estimator": "reinforce_plus_plus"},
    {"advantage_estimator": "maxrl", "loss_type": "reinforce"},
    {"environment": "guess", "num_episodes": 3, "reward_functions": ["environment"]},
    {"environment": "my.py:Wordle, search", "tools": ["auto"], "dataset": "games.jsonl"},
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
    {"learning_rate": 0.02, "optimizer": "muon", "adamw_learning_rate": 1e-4, "muon_momentum": 0.9},
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
    {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "importance_sampling_level": "sequence"},
    {"loss_type": "vespo", "vespo_k_neg": 1.0, "quantize_for_rollouts": True, "num_iterations": 2},
    {"loss_type": "dppo", "divergence_type": "binary_kl", "clip_ratio_c": 5.0, "quantize_for_rollouts": True},
    {"loss_type": "luspo", "delta": 1.5},
    {"kl_coeff": 0.1, "kl_estimator": "k1", "use_bias_correction_kl": True},
    {"kl_coeff": 0.1, "sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 1},
    {"use_adaptive_entropy": True, "entropy_target": 0.5, "entropy_coeff_max": 0.1},
    {"top_entropy_policy": "current", "top_entropy_quantile": 0.2},
    {"soft_overlong_tokens": 512},
    {
        "reward_functions": ["judge_reward_func"],
        "judge": "tiny",
        "judge_prompt": "{completion}?",
        "eval_reward": "judge",
    },
    {"multi_objective_aggregation": "normalize_then_sum", "soft_overlong_tokens": 512},
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


CODE = "def lookup(city): ...\nclass Wordle: ...\nraise SystemExit('ran')"


@pytest.mark.parametrize(
    ("values", "message", "cure"),
    [
        ({"tools": ["t.py:lokup"]}, "Tool function not found: lokup in t.py", 'write `tools = ["t.py:lookup"]`; functions in t.py: lookup'),
        ({"tools": ["t.py:zz"]}, "Tool function not found: zz in t.py", "functions in t.py: lookup"),
        ({"num_episodes": 9, "environment": "guess, t.py:Wordel"}, "Environment class not found: Wordel in t.py", 'write `environment = "guess, t.py:Wordle"`; classes in t.py: Wordle'),
        ({"reward_functions": ["int", "t.py:lokup"]}, "Reward function not found: lokup in t.py", 'write `reward_functions = ["int", "t.py:lookup"]`; functions in t.py: lookup'),
        ({"num_episodes": 9, "environment": "bad.py:Wordle"}, "Environment file failed: bad.py, line 2: SyntaxError: invalid syntax", "run it by itself: `python bad.py`"),
        ({"num_episodes": 9, "environment": "gone.py:Wordle"}, "Environment file not found: gone.py", "write the path from the current folder, HERE"),
    ],
)  # fmt: skip
def test_code_that_is_not_in_its_file(
    values: dict[str, Any], message: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.py").write_text(CODE)
    Path("bad.py").write_text("x = 1\ndef f(:\n")
    config = Config.model_validate(values)
    (breach,) = breaches(config, on_this_machine=True)
    assert (breach.message, breach.cure) == (message, cure.replace("HERE", str(tmp_path)))
    assert breach.severity == "error"
    assert breach.trouble == ("rewards" if "reward_functions" in values else "tools")
    assert list(breaches(config)) == []


@pytest.mark.parametrize("value", ["t.py:Wordle", "star.py:Wordle", "guess"])
def test_code_that_may_be_in_its_file(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.py").write_text(CODE)
    Path("star.py").write_text("from t import *")
    assert list(breaches(Config(environment=value, num_episodes=9), on_this_machine=True)) == []


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
    file.write_text("def reward(**_): ...\nraise SystemExit(3)")
    assert local_breaches(reward_functions=[name]) == []
    assert list(breaches(Config(reward_functions=[f"{tmp_path}/no.py:f"]))) == []


def test_a_folder_of_adapters_must_be_there_and_hold_some(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    gone = ("error", f"Adapters not found: {folder}", "model-not-found")
    assert local_breaches(max_new_tokens=64, model_name="tiny", adapter=str(folder)) == [gone]
    folder.mkdir()
    empty = ("error", f"{folder} holds no adapters: adapter_config.json is missing", "model-not-found")
    assert local_breaches(max_new_tokens=64, model_name="tiny", adapter=str(folder)) == [empty]
    (folder / "adapter_config.json").write_text("{}")
    for name in (str(folder), "", "owner/adapters"):  # a repository may be on the hub
        assert local_breaches(max_new_tokens=64, model_name="tiny", adapter=name) == []
    assert local_breaches(max_new_tokens=64, model_name="tiny", adapter="x\0") == [
        ("error", "Adapters not found: x\0", "model-not-found")
    ]


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
