"""The table of built-in rewards: name → function. To add one, write it in builtin.py and add a line here.

Every name also works with the suffix `_reward_func`, as MLX-GRPO writes it, and
`path/to/file.py:function` names a user's own.
"""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_cli.errors import RewardError
from grpo_cli.rewards import builtin
from grpo_cli.rewards.math_equivalence import math_verify
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.user_code import function_in, import_file

RewardFunction = Callable[..., Sequence[Any]]  # (prompts, completions, answer, **columns)


class InThisThread:
    """Base of rewards that compute with MLX, whose arrays belong to one thread: no worker calls them.

    They are a part of the engine, so their errors are its own.
    """


REWARDS: dict[str, RewardFunction] = {
    "correctness": builtin.correctness,
    "int": builtin.integer,
    "strict_format": builtin.strict_format,
    "soft_format": builtin.soft_format,
    "xmlcount": builtin.xmlcount,
    "last_number": builtin.last_number_matches,
    "nanochat_gsm8k": builtin.nanochat_gsm8k,
    "environment": builtin.environment,
    "judge": builtin.judge,
    "math_verify": math_verify,
}


def load_rewards(names: list[str]) -> list[tuple[str, RewardFunction]]:
    """The functions of `reward_functions` with their names in the log.

    A user's function is logged under its own name; duplicates get `_2`, `_3`, … Raises RewardError for a
    name, file or function that cannot be used.
    """
    loaded: dict[str, RewardFunction] = {}
    modules: dict[Path, ModuleType] = {}  # a file with several rewards is run once
    for name in names:
        reported, function = load_reward(name, modules)
        loaded[unique(reported, loaded)] = function
    return list(loaded.items())


def load_reward(name: str, modules: dict[Path, ModuleType]) -> tuple[str, RewardFunction]:
    """The function and log name of one entry of `reward_functions`."""
    spec = RewardSpec.parse(name)
    if spec.is_file:
        path = spec.path.resolve()
        modules[path] = modules.get(path) or import_file(path, spec.file)
        return spec.name, function_in(modules[path], spec.name, spec.file)
    if spec.name not in REWARDS:
        raise RewardError(f"Unknown reward function: {name}", unknown_hint(spec.name))
    return spec.name, REWARDS[spec.name]


def is_builtin(name: str) -> bool:
    """True if an entry of `reward_functions` is built in; any other entry is user code."""
    spec = RewardSpec.parse(name)
    return not spec.is_file and spec.name in REWARDS


def code_files(names: Iterable[str]) -> list[Path]:
    """The user files named by entries of `reward_functions`."""
    return [spec.path for spec in map(RewardSpec.parse, names) if spec.is_file]


def unknown_hint(name: str) -> str:
    """The hint for a mistyped reward name."""
    near = get_close_matches(name, REWARDS, n=1)
    start = f"did you mean `{near[0]}`? " if near else ""
    return f"{start}built-in rewards: {', '.join(REWARDS)}; your own: `path/to/file.py:function`"


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, with the first free suffix `_2`, `_3`, … if it is taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
