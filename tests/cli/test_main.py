"""The program as a whole: wrong usage, light commands, colour, and what a process ends with."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.commands import grpo
from tests.support.waiting import HANG

pytestmark = pytest.mark.usefixtures("in_empty_folder")

HEAVY = ("mlx", "mlx_lm", "transformers", "datasets", "tiktoken", "numpy", "tokenizers", "huggingface_hub")


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
