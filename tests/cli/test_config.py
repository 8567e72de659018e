"""`grpo config`: validate, show, init and schema."""

import json
import tomllib
from pathlib import Path

import pytest

from grpo_cli.config.load import load_config
from grpo_cli.config.resolve import shipped_names
from grpo_cli.config.schema import Config
from tests.support.commands import grpo

pytestmark = pytest.mark.usefixtures("in_empty_folder")


# --- validate --------------------------------------------------------------------------------------


def test_validate_says_a_tick_for_each_sound_file() -> None:
    result = grpo("config", "validate", *shipped_names())
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "".join(f"✓ {name}\n" for name in shipped_names())


def test_validate_tells_the_problem_as_train_would_and_goes_on() -> None:
    Path("bad.toml").write_text("seed = 1\ninvalid_parameter = 3\ntop_k = 5\n")
    result = grpo("config", "validate", "bad.toml", "prod", "configs/custom.toml")
    assert result.exit_code == 2
    assert result.stdout == "✗ bad.toml: 1 problem\n✓ prod\n✗ configs/custom.toml: 1 problem\n"
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "Unknown config key: invalid_parameter",
        "",
        "hint: bad.toml:2: no key has a similar name; `grpo config init` prints them all",
    ]
    assert lines[3] == "more: `grpo doctor --explain unknown-key`"
    assert lines[4].startswith("! bad.toml:3: top_k = 5 cuts tokens off while sampling, ")
    assert lines[5] == "Config file not found: configs/custom.toml"


def test_a_warning_is_no_failure() -> None:
    result = grpo("config", "validate", "prod", "--set", "eval_every_updates=7")
    assert (result.exit_code, result.stdout) == (0, "✓ prod\n")
    assert result.stderr == (
        "! --set: eval_every_updates is superseded by eval_steps; write `--set eval_steps=7`\n"
    )


def test_validate_as_json_is_one_document_and_nothing_else() -> None:
    Path("bad.toml").write_text("tempurature = 3\nmax_completion_length = 9\n")
    result = grpo("config", "validate", "prod", "bad.toml", "--json")
    assert (result.exit_code, result.stderr) == (2, "")
    document = json.loads(result.stdout)
    assert [(file["file"], file["valid"]) for file in document["files"]] == [
        ("prod", True),
        ("bad.toml", False),
    ]
    assert document["valid"] is False
    (problem,) = document["files"][1]["problems"]
    assert (problem["line"], problem["key"], problem["cure"]) == (
        1,
        "tempurature",
        "did you mean `temperature`?",
    )
    assert document["files"][1]["warnings"][0]["line"] == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("configs/custom.toml",), "Config file not found: configs/custom.toml"),
        (("prod", "--set", "invalid_parameter=1"), "Unknown config key: invalid_parameter"),
        (
            ("prod", "--set", "learning_rate=invalid_string"),
            "Failed to coerce value: 'invalid_string' to <class 'float'>",
        ),
        (("prod", "--set", 'learning_rate="5e-7"'), "Failed to coerce value: '\"5e-7\"' to <class 'float'>"),
    ],
)
@pytest.mark.parametrize("command", [("config", "validate"), ("config", "show"), ("train", "--config")])
def test_the_first_line_is_the_one_that_people_search_for(
    command: tuple[str, ...], words: tuple[str, ...], line: str
) -> None:
    result = grpo(*command, *words)
    first, blank, hint, *_ = result.stderr.splitlines()
    assert (first, blank, hint[:6], result.exit_code) == (line, "", "hint: ", 2)


# --- show, init, schema ----------------------------------------------------------------------------


def test_show_prints_toml_that_loads_again() -> None:
    result = grpo("config", "show", "prod", "--set", "lora_rank=0")
    Path("again.toml").write_text(result.stdout)
    assert load_config("again.toml").config == load_config("prod", ["lora_rank=0"]).config
    assert "lora_rank = 0                                 # --set\n" in result.stdout


def test_show_takes_the_environment_else_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tomllib.loads(grpo("config", "show").stdout) == Config.model_validate({}).model_dump()
    monkeypatch.setenv("MLX_GRPO_CONFIG", "smoke_test")
    assert tomllib.loads(grpo("config", "show").stdout)["model_name"] == "tiny"


def test_init_writes_once_and_overwrites_with_force() -> None:
    assert grpo("config", "init", "my.toml", "--from", "smoke_test").exit_code == 0
    assert load_config("my.toml").config == load_config("smoke_test").config
    refused = grpo("config", "init", "my.toml")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "Config file exists: my.toml\n\nhint: `grpo config init my.toml --force` overwrites it\n"
        "more: `grpo doctor --explain config-exists`\n"
    )
    assert grpo("config", "init", "my.toml", "--force").exit_code == 0
    assert load_config("my.toml").config == Config.model_validate({})


def test_init_without_a_file_prints_and_writes_nothing() -> None:
    result = grpo("config", "init")
    assert tomllib.loads(result.stdout) == Config.model_validate({}).model_dump()
    assert list(Path().iterdir()) == []


def test_init_into_a_missing_folder() -> None:
    result = grpo("config", "init", "a/b.toml")
    assert result.exit_code == 2
    assert result.stderr == (
        "Cannot write config file: a/b.toml: No such file or directory\n\n"
        "hint: `mkdir -p a` makes the folder\nmore: `grpo doctor --explain config-exists`\n"
    )


def test_schema_is_json() -> None:
    assert set(Config.model_fields) < set(json.loads(grpo("config", "schema").stdout)["properties"])
