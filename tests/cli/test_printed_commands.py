"""Every `grpo …` that the sources print is one that the command line takes, names quoted for a shell."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from grpo_cli.cli.main import app
from grpo_cli.config.overrides import read_overrides
from grpo_cli.doctor.chapters import chapters

ROOT = Path(__file__).parents[2]
PRINTED = re.compile(r"`(grpo [^`\n]+)`|^(grpo (?:generate|train|eval) -[^\n]+)$")
# Placeholders that need no quotes: numbers, names of ours, and what was quoted where it was made.
PLAIN = {
    "bits", "more", "2 * step", "what", "error.trouble", "finding.name", "config", "folder", "setting",
    "answered.failure.chapter", "failure.chapter",
    "model", "prompt", "file", "final", "OPTIONS[check.needs]", "model_name(context)", "command",
    "lower_rate(context).replace(' ', '')", "lower_rate(context, NAN_RATE).replace(' ', '')",
}  # fmt: skip
SAMPLES = {
    "OPTIONS[check.needs]": "--run RUN",
    "bits": "4",
    "setting": "seed=1",
    "2 * step": "2",
    "quoted(f'model_name={usable}')": "model_name=x",
    "more": "2",
}


def texts() -> Iterator[tuple[str, str, list[str]]]:
    """(place, text with samples for its placeholders, the placeholders in each printed command)."""
    for path in sorted((ROOT / "grpo_cli").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {
            id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                yield f"{path.name}:{node.lineno}", node.value, []
            elif isinstance(node, ast.JoinedStr):
                marked, names = "", []
                for part in node.values:
                    if isinstance(part, ast.FormattedValue):
                        names.append(ast.unparse(part.value))
                        marked += f"\0{len(names) - 1}\0"
                    elif isinstance(part, ast.Constant):
                        marked += str(part.value)
                yield f"{path.name}:{node.lineno}", marked, names

    for chapter in chapters().values():
        yield f"{chapter.name}.md", "\n".join([chapter.why, chapter.how, chapter.cure]), []


def printed() -> Iterator[tuple[str, str, list[str]]]:
    """(place, command, placeholders) of every command in the sources."""
    for place, text, names in texts():
        for found in PRINTED.finditer(text):
            command = found[1] or found[2]
            used = [names[int(number)] for number in re.findall("\0(\\d+)\0", command)]
            for number, name in enumerate(names):
                command = command.replace(f"\0{number}\0", SAMPLES.get(name, "NAME"))
            yield place, re.split(r" [>|] ", command)[0], used


def refusal(command: str) -> str:
    """What the command line says against a command; empty where it takes it."""
    group: Any = get_command(app)
    _, *words = shlex.split(command)
    while getattr(group, "commands", {}) and words and not words[0].startswith("-"):
        if words[0] not in group.commands:
            return f"no command {words[0]}"
        group, *words = group.commands[words[0]], *words[1:]
    if not words:  # a bare name speaks of the command
        return ""
    # An option that is named alone speaks of it, and `…` stands for what is left out.
    speaks = len(words) == 1 or "…" in words
    try:
        context = group.make_context("grpo", list(words), resilient_parsing=speaks)
        if problems := read_overrides(context.params.get("set_") or ()).problems:
            return problems[0].message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_every_printed_command_is_taken_and_quoted() -> None:
    commands = list(printed())
    assert len(commands) > 150
    refused = [(place, command, said) for place, command, _ in commands if (said := refusal(command))]
    bare = [
        (place, command, name)
        for place, command, names in commands
        for name in names
        if "quote" not in name and name not in PLAIN
    ]
    assert (refused, bare) == ([], [])


def test_a_wrong_command_is_refused() -> None:
    assert (
        refusal("grpo trian --config x")
        and refusal("grpo train --cofnig x")
        and refusal("grpo train --set seed")
    )
    assert not refusal("grpo train --config x --set seed=3")
