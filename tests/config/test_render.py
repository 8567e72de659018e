"""A configuration as text: what is printed loads again, and every key is in it."""

import tomllib
from pathlib import Path

import pytest

from grpo_cli.config.fields import groups
from grpo_cli.config.load import load_config
from grpo_cli.config.render import dump_config, json_schema, show_config, starting_file
from grpo_cli.config.schema import SUPERSEDED, Config

ODD = {
    "system_prompt": 'a\n"b" # c\\',
    "stop": ["</answer>", "\t"],
    "learning_rate": 5e-7,
    "reward_weights": [],
    "chat_template_kwargs": {"enable_thinking": False, "a b": [1.5, {'"c': "\n"}], "": {}},
}


def reloaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "again.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(str(path)).config


def test_dump_loads_to_the_same_configuration(tmp_path: Path) -> None:
    config = Config.model_validate(ODD)
    assert reloaded(tmp_path, dump_config(config)) == config


def test_show_loads_again_and_says_where_values_came_from(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('\nsystem_prompt = "a\\n#b"\n')
    loaded = load_config(str(path), ["seed=3"])
    text = show_config(loaded)
    assert reloaded(tmp_path, text) == loaded.config
    lines = text.splitlines()
    assert len(lines) == len(Config.model_fields)
    shown = 'system_prompt = "a\\n#b"'
    assert f"{shown:<44}  # {path}:2" in lines
    assert "seed = 3                                      # --set" in lines
    assert "temperature = 0.7                             # default" in lines


def test_a_line_break_in_a_file_name_stays_in_its_comment(tmp_path: Path) -> None:
    path = tmp_path / "a\nbits = 9.toml"
    path.write_text("seed = 1")
    assert tomllib.loads(show_config(load_config(str(path))))["bits"] == 4


def test_starting_file_has_every_key_once_with_its_default(tmp_path: Path) -> None:
    config = Config.model_validate(ODD)
    text = starting_file(config, "my.toml")
    assert reloaded(tmp_path, text) == config
    assert list(tomllib.loads(text)) == list(Config.model_fields)
    assert text.startswith("# Check this file:  grpo config validate my.toml\n")
    assert "\n# Peak learning rate.\nlearning_rate = 5e-07                         # default: 1e-06\n" in text
    assert "\n# Decoupled weight decay.\nweight_decay = 0.0                            # default\n" in text


def test_groups_are_the_headings_of_the_schema() -> None:
    assert list(groups()) == [
        "run", "data", "rewards", "rollouts", "tools and environments", "quantized rollouts", "loss",
        "from rollouts to steps", "optimization", "steps and their memory", "LoRA",
        "log, evaluation, checkpoints", "the machine during a run", "several ranks",
    ]  # fmt: skip
    assert [key for keys in groups().values() for key in keys] == list(Config.model_fields)
    assert groups()["rewards"] == [
        "reward_functions", "reward_weights", "multi_objective_aggregation", "soft_overlong_tokens",
        "strip_thinking", "judge", "judge_mode", "judge_prompt", "judge_max_tokens", "reward_timeout",
        "reward_workers",
    ]  # fmt: skip


@pytest.mark.parametrize("key", Config.model_fields)
def test_the_schema_describes_every_key(key: str) -> None:
    entry = json_schema()["properties"][key]
    assert entry["description"]
    assert entry["default"] == Config.model_fields[key].default


def test_the_schema_knows_what_else_a_file_may_hold() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["mlx_grpo"]["$ref"] == "#"
    assert schema["properties"]["temperature"]["exclusiveMinimum"] == 0
    for old, new in SUPERSEDED.items():
        assert schema["properties"][old]["deprecated"] is True
        assert schema["properties"][old]["type"] == schema["properties"][new]["type"]
