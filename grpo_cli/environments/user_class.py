"""Find and check a user's environment class: `path/to/file.py:Class`, in TRL's shape.

    class Wordle:
        def reset(self, word: str) -> str | None: …     # the example's columns by keyword; called first
        def get_reward(self) -> float: …                # optional
        def respond(self, text: str) -> str | None: …   # optional: the answer to a turn; None: finished
        def guess(self, word: str) -> str: …            # any other public method is a tool

    own_tools(Wordle)                                   →  ["guess"]

Its constructor takes no arguments: every rollout gets an instance of its own. A parameter named `tokenizer`
is the exception, and gets the model's.
"""

import inspect
from difflib import get_close_matches
from inspect import Parameter
from types import ModuleType
from typing import Any

from grpo_cli.environments.protocol import Environment
from grpo_cli.errors import ToolError
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.user_code import ENVIRONMENT, import_file

RESERVED = ("reset", "get_reward", "respond")  # called by us, never by the model
OPTIONAL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def load_class(spec: RewardSpec) -> type:
    """The class that an entry names, checked. Raises ToolError."""
    found = class_in(import_file(spec.path.resolve(), spec.file, ENVIRONMENT), spec)
    check_class(found, spec)
    return found


def class_in(module: ModuleType, spec: RewardSpec) -> type:
    """The module's class of that name. Raises ToolError that lists the available ones."""
    own = [
        name
        for name, value in vars(module).items()
        if is_environment_class(value) and value.__module__ == module.__name__
    ]
    listed = f"environments in {spec.file}: {', '.join(own) or 'none'}"
    if not spec.name:
        raise ToolError(
            f"Environment class not named: {spec.file}",
            f"write `{spec.file}:{own[0] if own else 'Class'}`; {listed}",
        )
    if not hasattr(module, spec.name):
        near = get_close_matches(spec.name, own, n=1)
        start = f"did you mean `{near[0]}`? " if near else ""
        raise ToolError(f"Environment not found: {spec.name} in {spec.file}", start + listed)
    found = getattr(module, spec.name)
    if not inspect.isclass(found):
        raise ToolError(
            f"Environment is not a class: {spec.name} in {spec.file} is of type {type(found).__name__}",
            listed,
        )
    return found


def is_environment_class(value: Any) -> bool:
    """True for a class that answers a model: it has `reset`, and `respond` or a tool."""
    if not inspect.isclass(value):
        return False
    if issubclass(value, Environment):
        return value is not Environment
    return has_method(value, "reset") and (has_method(value, "respond") or bool(own_tools(value)))


def has_method(cls: type, name: str) -> bool:
    """True if the class or one of its bases defines the method."""
    return callable(getattr(cls, name, None))


def own_tools(cls: type) -> list[str]:
    """Names of the public methods that the model may call, in the order of their definition."""
    names = dict.fromkeys(name for base in reversed(cls.__mro__[:-1]) for name in vars(base))
    return [name for name in names if is_tool(cls, name)]


def is_tool(cls: type, name: str) -> bool:
    """True for a public method; properties, attributes and inner classes are none."""
    if name.startswith("_") or name in RESERVED:
        return False
    found = inspect.getattr_static(cls, name)
    return inspect.isfunction(found) or isinstance(found, staticmethod | classmethod)


def check_class(cls: type, spec: RewardSpec) -> None:
    """Raise ToolError for a class that no rollout could use."""
    where = f"{cls.__name__} in {spec.file}"
    if not is_environment_class(cls):
        missing = "`respond` or a tool" if has_method(cls, "reset") else "the method `reset`"
        raise ToolError(
            f"Environment lacks {missing}: {where}",
            "it needs `reset(self, **columns)`, and `respond(self, text)` or public methods as tools",
        )
    if inspect.isabstract(cls):
        raise ToolError(
            f"Environment is abstract: {where} lacks {', '.join(sorted(vars(cls)['__abstractmethods__']))}",
            "define these methods",
        )
    if needed := [name for name in required(cls) if name != "tokenizer"]:
        raise ToolError(
            f"Environment needs arguments: {where} takes {', '.join(needed)}",
            "every rollout makes its own with no arguments: give them defaults, or read them in `reset`",
        )
    if not issubclass(cls, Environment):
        check_reset(cls, where)
        for name in own_tools(cls):
            check_tool(cls, name, where)


def check_reset(cls: type, where: str) -> None:
    """Raise ToolError for a `reset` that cannot take columns by keyword."""
    kinds = inspect.signature(cls.reset).parameters  # type: ignore[attr-defined]
    bare = [name for name, one in list(kinds.items())[1:] if one.kind is Parameter.POSITIONAL_ONLY]
    if bare:
        raise ToolError(
            f"Environment takes `{bare[0]}` by position only: reset of {where}",
            "columns are given by keyword: leave out the `/`",
        )


def required(cls: type) -> list[str]:
    """Names of the constructor's arguments without a default."""
    parameters = inspect.signature(cls).parameters.values()
    return [one.name for one in parameters if one.default is Parameter.empty and one.kind not in OPTIONAL]


def check_tool(cls: type, name: str, where: str) -> None:
    """Raise ToolError for a public method that cannot be described to a model."""
    hint = f"describe it to the model, or hide it from the model by the name `_{name}`"
    method = getattr(cls, name)
    if not inspect.getdoc(method):
        raise ToolError(f"Tool without a docstring: {name} of {where}", hint)
    is_bound = not inspect.isfunction(inspect.getattr_static(cls, name))
    parameters = list(inspect.signature(method).parameters.values())[0 if is_bound else 1 :]
    bare = [one.name for one in parameters if one.annotation is Parameter.empty]
    if bare:
        raise ToolError(f"Tool without a type hint for `{bare[0]}`: {name} of {where}", hint)


def make(cls: type, tokenizer: Any) -> Any:
    """A new instance of an environment class, with the tokenizer if its constructor has a place for it."""
    takes = "tokenizer" in inspect.signature(cls).parameters
    return cls(tokenizer=tokenizer) if takes else cls()
