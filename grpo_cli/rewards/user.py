"""Load a user's own reward from a Python file: `path/to/file.py:function`.

The file is run once, like an import, and may import modules from its folder.
"""

import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from inspect import isfunction
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from grpo_cli.errors import Interrupted, RewardError
from grpo_cli.foreign_text import quoted
from grpo_cli.rewards.user_error import describe, place, trace


class SourceOnly(SourceFileLoader):
    """Loader that always compiles the source: cached bytecode next to it may do something else."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """The compiled source."""
        return self.source_to_code(self.get_data(self.path), self.path)


def import_file(path: Path, shown: str) -> ModuleType:
    """Run the file and return its module. `shown` is the path as the user wrote it.

    Raises RewardError when the file is missing or fails, with the user's own error and its line.
    """
    if not path.is_file():
        raise RewardError(
            f"Reward file not found: {shown}", f"write the path from the current folder, {Path.cwd()}"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that it cannot shadow anything
    name = module_name(path)
    spec = importlib.util.spec_from_loader(name, SourceOnly(name, str(path)))
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise RewardError(f"Reward file is not a Python file: {shown}", "its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up the module by name
    try:
        spec.loader.exec_module(module)
    # A user's file can raise anything, and a script without a main guard may even exit. The error is
    # passed on with its location in the user's file.
    except Interrupted:
        raise
    except BaseException as error:
        del sys.modules[name]
        where = place(error, path).removeprefix(f"{path.name}, ")
        raise RewardError(
            f"Reward file failed: {', '.join(filter(None, (shown, where)))}: {describe(error)}",
            f"run it by itself: `python {quoted(shown)}`",
            trace=trace(error),
        ) from error
    return module


def module_name(path: Path) -> str:
    """The name by which `import`, and so a reward's own processes, finds the file, or a name of ours.

    If another file shadows that name, or it is not a valid one, only this process knows the module.
    """
    try:
        found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    except ValueError:  # a module without a spec, such as `__main__`
        found = None
    is_this = found is not None and found.origin is not None and Path(found.origin).resolve() == path
    return path.stem if is_this else f"grpo_reward_{path.stem}"


def function_in(module: ModuleType, name: str, shown: str) -> Callable[..., Any]:
    """The module's function of that name. Raises RewardError that lists the available functions."""
    own = [
        key
        for key, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__
    ]
    listed = f"functions in {shown}: {', '.join(own) or 'none'}"
    if not name:
        raise RewardError(
            f"Reward function not named: {shown}",
            f"write `{shown}:{own[0] if own else 'function'}`; {listed}",
        )
    if not hasattr(module, name):
        near = get_close_matches(name, own, n=1)
        start = f"did you mean `{near[0]}`? " if near else ""
        raise RewardError(f"Reward function not found: {name} in {shown}", start + listed)
    function = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise RewardError(f"Reward function is not a function: {name} in {shown} is of type {kind}", listed)
    return function
