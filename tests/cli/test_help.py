"""`--help` of every command: whole lines, plain names, examples that work; and short ways to give things."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner, Result

from grpo_cli.cli.main import app
from grpo_cli.cli.terminal import as_started, uv

WIDTHS = (60, 80, 120, 200)


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield ()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        yield (name,)
        for nested in getattr(command, "commands", {}):
            yield (name, nested)


def grpo(*words: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(app, list(words), prog_name="grpo")


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
@pytest.mark.parametrize("width", WIDTHS)
def test_help_is_whole_and_plain(words: tuple[str, ...], width: int) -> None:
    shown = grpo(*words, "-h", COLUMNS=str(width))
    assert shown.exit_code == 0
    assert shown.stdout == grpo(*words, "--help", COLUMNS=str(width)).stdout
    assert "..." not in shown.stdout.replace("[ARGS]...", "")
    assert not re.search(r"<(str|int|float|path|list|bool)\b", shown.stdout)
    assert len(re.findall(r"^ +grpo ", shown.stdout, re.MULTILINE)) == 2
    assert shown.stdout.startswith(f"Usage: {' '.join(('grpo', *words))} ")


def test_usage_lines() -> None:
    def usage(*words: str) -> str:
        return grpo(*words, "-h").stdout.splitlines()[0]

    assert usage("train") == "Usage: grpo train [OPTIONS] [CONFIG]"
    assert usage("resume") == "Usage: grpo resume [OPTIONS] PATH"
    assert usage("launch") == "Usage: grpo launch [OPTIONS] COMMAND…"
    assert usage("config", "validate") == "Usage: grpo config validate [OPTIONS] FILE|NAME…"


def test_the_example_of_generate_answers_rightly() -> None:
    command = re.search(r'grpo (generate --model tiny) --prompt "(.+)"', grpo("generate", "-h").stdout)
    assert command
    first, second = map(int, re.findall(r"\d+", command[2]))
    shown = grpo(*command[1].split(), "--prompt", command[2])
    assert f"<answer>{first + second}</answer>" in shown.stdout


def test_a_configuration_by_position_and_keys_by_name(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("num_generations = 1\n")
    file = str(tmp_path / "my.toml")
    by_position, by_option = grpo("train", file), grpo("train", "--config", file)
    assert by_position.exit_code == 2 and by_position.stderr == by_option.stderr
    twice = grpo("train", file, "--config", "prod")
    assert twice.exit_code == 2 and "give one of them" in twice.stderr
    for option, value, key in (("--max-steps", "-7", "max_steps"), ("--run-name", "a/b", "run_name")):
        wrong = grpo("train", option, value)
        assert (wrong.exit_code, wrong.stderr) == (2, grpo("train", "--set", f"{key}={value}").stderr)
        wrong = grpo("train", "prod", option, value)
        assert wrong.exit_code == 2 and key in wrong.stderr


def test_a_model_and_a_dataset_need_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
    neither = grpo("train", "--model", "tiny")
    assert neither.exit_code == 2 and neither.stderr.startswith("No configuration: ")
    done = grpo(
        "train", "--model", "tiny", "--dataset", "arithmetic", "--max-steps", "1", "--run-name", "short",
        "--set", "batch_size=1", "--set", "gradient_accumulation_steps=1", "--set", "num_generations=2",
        "--set", "max_new_tokens=4", "--set", "eval_steps=0", "--output-dir", "there", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "there/short/final/manifest.json").is_file()


def test_eval_takes_its_model_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [grpo("eval", *words, "--samples", "2", "--json") for words in (["tiny"], ["--model", "tiny"])]
    assert [one.exit_code for one in shown] == [0, 0]
    without_time = [re.sub(r'"seconds": [\d.]+', "", one.stdout) for one in shown]
    assert without_time[0] == without_time[1]
    nothing = grpo("eval")
    assert nothing.exit_code == 2 and "give a model" in nothing.stderr


def test_the_shell_completes_shipped_configurations() -> None:
    shown = grpo(
        _GRPO_COMPLETE="complete_bash", COMP_WORDS="grpo train --config smo", COMP_CWORD="3"
    )  # as bash asks
    assert shown.stdout.split() == ["smoke_test", "smollm2_gsm8k", "smollm2_sums"]


@pytest.mark.parametrize(
    ("is_uv", "path", "expected"),
    [
        (True, "{bin}", "`uv run grpo resume x`"),
        (True, "", "`python3 -m uv run grpo resume x`"),
        (False, "", "`grpo resume x`"),
    ],
)
def test_printed_commands_run_as_this_one_was_started(
    is_uv: bool, path: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", path.format(bin=tmp_path))
    uv.cache_clear()
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    if is_uv:
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    text = as_started(Text("stopped; `grpo resume x` continues", style="dim"))
    assert text.plain == f"stopped; {expected} continues"
    assert Console().render_str("x")  # the text stays a rich one


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
