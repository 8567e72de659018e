"""How a cure is applied: what a scenario does, and where in the sources its error was made.

A scenario is a generator. It makes the trouble, yields what fails of it, is sent the error's hint, and does
what the hint says:

    def no_answers() -> Steps:
        rows("d.jsonl", {"question": "a"})
        hint = yield lambda: examples("d.jsonl")
        yield lambda: examples("d.jsonl", **toml(hint))     # else the first one must pass now
"""

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from grpo_cli.cli.main import app
from grpo_cli.errors import GrpoError
from tests.support.cure_places import WHERE

ROOT = Path(__file__).parents[2]
Act = Callable[[], object]
Steps = Generator[Act, str, None]


def toml(hint: str, chosen: int = 0) -> dict[str, Any]:
    """The keys of a line of TOML that the hint names in backticks: the first such line, or another."""
    return tomllib.loads(re.findall(r"`(\w+ = [^`]+)`", hint)[chosen])


def command(hint: str, chosen: int = 0) -> list[str]:
    """The words of a command of ours that the hint names, without `grpo`."""
    return shlex.split(re.findall(r"`grpo ([^`]+)`", hint)[chosen])


def grpo(*words: str) -> None:
    """Run a command of ours; AssertionError with what it said where it fails."""
    result = CliRunner().invoke(app, list(words), prog_name="grpo")
    assert result.exit_code == 0, (words, result.stderr, result.exception)


def cases_of(names: dict[str, Any]) -> Callable[..., None]:
    """The test of every scenario among a module's names."""
    scenarios = {
        name: found
        for name, found in names.items()
        if getattr(found, "__annotations__", None) == {"return": Steps}
        and found.__module__ == names["__name__"]
    }

    @pytest.mark.parametrize("name", scenarios)
    def test_a_cure_cures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
        assert apply(scenarios[name]) == WHERE[name]

    return test_a_cure_cures


def apply(scenario: Callable[[], Steps]) -> str:
    """Make the trouble, see the error, apply its hint, see the error gone; where the error was made."""
    steps = scenario()
    act = next(steps)
    with noted(), pytest.raises(GrpoError) as error:
        act()
    assert error.value.hint, error.value.message
    try:
        act = steps.send(error.value.hint)
    except StopIteration:
        act()
    else:
        act()
        assert next(steps, None) is None
    return str(vars(error.value)["made_in"])


@contextmanager
def noted() -> Iterator[None]:
    """Errors of ours that are made within the block know where: `made_in` is file:function."""
    original = GrpoError.__init__

    def note(self: GrpoError, *words: Any, **settings: Any) -> None:
        original(self, *words, **settings)
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_locals.get("self") is self:  # of a class of errors
            frame = frame.f_back
        vars(self)["made_in"] = f"{below(Path(frame.f_code.co_filename))}:{frame.f_code.co_name}"

    GrpoError.__init__ = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        GrpoError.__init__ = original  # type: ignore[method-assign]


def below(path: Path) -> str:
    """A file's name below grpo_cli."""
    return path.relative_to(ROOT / "grpo_cli").as_posix()


def error_classes(trees: Iterable[ast.Module]) -> set[str]:
    """The names of GrpoError and of every class below it, whether or not it is imported by now."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases} for node in classes}
    found = {"GrpoError"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def places_with_hints() -> set[str]:
    """file:function of everything in the sources that makes an error with a hint."""
    files = sorted((ROOT / "grpo_cli").rglob("*.py"))
    trees = {path: ast.parse(path.read_text("utf-8")) for path in files}
    kinds = error_classes(trees.values())
    return {place for path, tree in trees.items() for place in _places(tree, below(path), kinds)}


def _places(node: ast.AST, place: str, kinds: set[str]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inside = f"{place.partition(':')[0]}:{child.name}" if isinstance(child, ast.FunctionDef) else place
        if isinstance(child, ast.Call) and ast.unparse(child.func).rpartition(".")[2] in kinds:
            has_hint = len(child.args) > 1 or any(keyword.arg == "hint" for keyword in child.keywords)
            yield from [inside] if has_hint else []
        yield from _places(child, inside, kinds)
