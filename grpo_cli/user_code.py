"""Load a user's own code from a Python file: a reward, a tool or an environment, as `path/to/file.py:name`.

    module = import_file(Path("my_tools.py"), "my_tools.py", TOOL)
    lookup = function_in(module, "lookup", "my_tools.py", TOOL)

The file is run once, like an import, and may import modules from its folder. Errors use the words and the
class of the kind of code that was asked for.
"""

import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from inspect import isclass, isfunction
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from grpo_cli.errors import GrpoError, Interrupted, RewardError, ToolError
from grpo_cli.foreign_text import aside, quoted
from grpo_cli.user_error import describe, place, trace


class Kind(NamedTuple):
    """A kind of user code: the words of its errors, and their class."""

    word: str
    noun: str  # `function` or `class`
    error: type[GrpoError]

    def is_one(self, value: object) -> bool:
        """True for a value that the file may have written as code of this kind."""
        return isclass(value) if self.noun == "class" else isfunction(value)

    @property
    def plural(self) -> str:
        """`functions` or `classes`."""
        return "classes" if self.noun == "class" else "functions"


REWARD = Kind("Reward", "function", RewardError)
TOOL = Kind("Tool", "function", ToolError)
ENVIRONMENT = Kind("Environment", "class", ToolError)


class SourceOnly(SourceFileLoader):
    """Loader that always compiles the source: cached bytecode next to it may do something else."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """The compiled source."""
        return self.source_to_code(self.get_data(self.path), self.path)


def import_file(path: Path, shown: str, kind: Kind = REWARD) -> ModuleType:
    """Run the file and return its module. `shown` is the path as the user wrote it.

    Raises the kind's error when the file is missing or fails, with the user's own error and its line.
    """
    if not path.is_file():
        raise kind.error(
            f"{kind.word} file not found: {shown}", f"write the path from the current folder, {Path.cwd()}"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that it cannot shadow anything
    name = module_name(path, kind)
    spec = importlib.util.spec_from_loader(name, SourceOnly(name, str(path)))
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise kind.error(f"{kind.word} file is not a Python file: {shown}", "its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up the module by name
    try:
        with aside():
            spec.loader.exec_module(module)
    # A user's file can raise anything, and a script without a main guard may even exit. The error is
    # passed on with its location in the user's file.
    except Interrupted:
        raise
    except BaseException as error:
        del sys.modules[name]
        where = place(error, path).removeprefix(f"{path.name}, ")
        raise kind.error(
            f"{kind.word} file failed: {', '.join(filter(None, (shown, where)))}: {describe(error)}",
            f"run it by itself: `python {quoted(shown)}`",
            trace=trace(error),
        ) from error
    return module


def module_name(path: Path, kind: Kind = REWARD) -> str:
    """The name by which `import`, and so the user's own processes, finds the file, or a name of ours.

    If another file shadows that name, or it is not a valid one, only this process knows the module.
    """
    try:
        found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    except ValueError:  # a module without a spec, such as `__main__`
        found = None
    is_this = found is not None and found.origin is not None and Path(found.origin).resolve() == path
    return path.stem if is_this else f"grpo_{kind.word.lower()}_{path.stem}"


def function_in(module: ModuleType, name: str, shown: str, kind: Kind = REWARD) -> Callable[..., Any]:
    """The module's function, or class, of that name. Raises the kind's error, with the names that exist."""
    own = [
        key
        for key, value in vars(module).items()
        if kind.is_one(value) and value.__module__ == module.__name__
    ]
    listed = f"{kind.plural} in {shown}: {', '.join(own) or 'none'}"
    called = f"{kind.word} {kind.noun}"
    if not name:
        raise kind.error(
            f"{called} not named: {shown}", f"write `{shown}:{own[0] if own else kind.noun}`; {listed}"
        )
    if not hasattr(module, name):
        near = get_close_matches(name, own, n=1)
        start = f"did you mean `{near[0]}`? " if near else ""
        raise kind.error(f"{called} not found: {name} in {shown}", start + listed)
    found = getattr(module, name)
    if not (isclass(found) if kind.noun == "class" else callable(found)):
        raise kind.error(
            f"{called} is not a {kind.noun}: {name} in {shown} is of type {type(found).__name__}", listed
        )
    return found
