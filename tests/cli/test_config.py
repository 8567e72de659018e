"""`grpo config`, and how the program as a whole starts, fails and ends."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from grpo_cli.cli.errors import broken_installation
from grpo_cli.cli.main import app
from grpo_cli.config.load import load_config
from grpo_cli.config.resolve import shipped_names
from grpo_cli.config.schema import Config
from grpo_cli.errors import TrainingError
from tests.support.waiting import HANG

HEAVY = ("mlx", "mlx_lm", "transformers", "datasets", "tiktoken", "numpy", "tokenizers", "huggingface_hub")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


def grpo(*words: str) -> Result:
    return CliRunner().invoke(app, words, prog_name="grpo")


@pytest.fixture
def failing() -> Iterator[list[BaseException]]:
    """A command `fail` that raises what the test puts into the list."""
    raised: list[BaseException] = []

    def fail() -> None:
        raise raised[0]

    app.command("fail")(fail)
    yield raised
    app.registered_commands.pop()


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


# --- the program -----------------------------------------------------------------------------------


def test_an_error_for_people_is_its_message_a_blank_line_and_the_hint(failing: list[Any]) -> None:
    failing.append(TrainingError("NaN gradient encountered in [layers.0]", "`--set learning_rate=1e-6`"))
    result = grpo("fail")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "NaN gradient encountered in [layers.0]\n\nhint: `--set learning_rate=1e-6`\n"
        "more: `grpo doctor --explain training-stopped`\n"
    )


def test_a_missing_mlx_lm_names_the_command_that_cures(failing: list[Any]) -> None:
    failing.append(ModuleNotFoundError("No module named 'mlx_lm'", name="mlx_lm"))
    result = grpo("fail")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "ModuleNotFoundError: No module named 'mlx_lm'",
        "",
        f"hint: `{sys.executable} -m pip install --upgrade 'mlx-lm>=0.32.2'`",
        "more: `grpo doctor --explain mlx-lm`",
    ]


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libmlx.so: cannot open shared object file: No such file or directory"),
        ModuleNotFoundError("No module named 'mlx.core'", name="mlx.core"),
    ],
)
def test_mlx_without_a_backend_names_the_extra(error: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    known = broken_installation(error)
    assert known is not None
    assert known.message == f"{type(error).__name__}: {error}"
    assert "pip install 'grpo-cli[cpu]'" in known.hint


def test_an_import_error_of_our_own_is_a_bug() -> None:
    with pytest.raises(ImportError) as caught:
        import_module("grpo_cli.no_such_module")
    assert broken_installation(caught.value) is None


def test_an_interrupt_ends_with_130(failing: list[Any]) -> None:
    failing.append(KeyboardInterrupt())
    assert grpo("fail").exit_code == 130


@pytest.mark.parametrize(
    "words", [("bogus",), ("config", "validate"), ("config", "show", "--bogus"), ("train", "--bogus")]
)
def test_wrong_usage_ends_with_2(words: tuple[str, ...]) -> None:
    result = grpo(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: grpo")


def test_train_without_a_configuration_names_both_ways() -> None:
    result = grpo("train")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "No configuration: neither --config nor $MLX_GRPO_CONFIG is given\n\nhint: "
    )


def every_command(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from every_command(child, (*path, name))


@pytest.mark.parametrize("path", list(every_command(typer.main.get_command(app))), ids=" ".join)
def test_every_help_shows_two_real_examples(path: tuple[str, ...]) -> None:
    result = grpo(*path, "--help")
    examples = result.stdout.partition("Examples:\n")[2].splitlines()
    assert result.exit_code == 0
    assert len(examples) == 2
    assert all(example.split()[: len(path) + 1] == ["grpo", *path] for example in examples if path)


# --- the process -----------------------------------------------------------------------------------


def process(*words: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own; `code` runs before it."""
    root = Path(__file__).parents[2]
    script = f"import sys\n{code}\nfrom grpo_cli.cli.main import run\nsys.argv[0] = 'grpo'\nrun()"
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths, **environment},
        timeout=HANG,
    )


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("config", "validate", "prod")])
def test_light_commands_import_nothing_heavy(words: tuple[str, ...]) -> None:
    report = (
        "import atexit; atexit.register(lambda: print(sorted({n.partition('.')[0] for n in sys.modules})))"
    )
    result = process(*words, code=report)
    assert result.returncode == 0
    loaded = set(json.loads(result.stdout.splitlines()[-1].replace("'", '"')))
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert ("pydantic" in loaded) == (words[0] == "config")


def test_no_traceback_for_people_and_a_plain_one_for_bugs() -> None:
    known = process("config", "show", "nowhere.toml", COLUMNS="0")
    assert known.returncode == 2
    assert known.stderr.startswith("Config file not found: nowhere.toml\n\nhint: ")
    assert "Traceback" not in known.stderr
    bug = process("fail", code="from grpo_cli.cli.main import app\n@app.command()\ndef fail(): 1 / 0")
    assert bug.returncode == 1
    assert bug.stderr.startswith("Traceback (most recent call last):\n")
    assert bug.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_colour_only_where_it_is_wanted() -> None:
    Path("bad.toml").write_text("sede = 1")
    words = ("config", "validate", "bad.toml")
    colourful = process(*words, FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="")
    plain = process(*words, FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b[" in colourful.stderr
    assert not {"\x1b[3", "\x1b[9"} & {plain.stderr[i : i + 3] for i in range(len(plain.stderr))}


def test_a_terminal_without_unicode_gets_toml_in_utf_8_and_ascii_messages() -> None:
    result = process("config", "init", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert tomllib.loads(result.stdout)["seed"] == 0
    assert process("config", "validate", "prod", PYTHONIOENCODING="ascii").returncode == 0
