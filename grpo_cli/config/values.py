"""Checks values against the schema: pydantic's findings in the words of our error texts."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from grpo_cli.config.document import Entry
from grpo_cli.config.fields import (
    choices,
    default,
    description,
    element_type,
    nearest,
    parse_toml_value,
    short,
    toml_value,
    value_type,
)
from grpo_cli.config.overrides import BOOLEANS
from grpo_cli.config.paths import PATH_KEYS, expanded
from grpo_cli.config.problems import COMMAND_LINE, Problem
from grpo_cli.config.schema import Config
from grpo_cli.errors import ConfigError

# Why a bound is where it is, for values that make sense elsewhere, and what to write.
_REASONS = {
    "temperature": (
        "at 0 all completions of a group would be the same, and their rewards too: nothing to learn from; "
        "write `temperature = 0.7`"
    ),
    "num_generations": "the completions of a group are compared; write `num_generations = 8`",
    "top_p": "write `top_p = 1.0` to sample from all tokens",
    "max_grad_norm": "gradients are scaled down to it; write `max_grad_norm = 1e9` to leave them alone",
}


def check_values(layer: Mapping[str, Entry]) -> tuple[Config, list[Problem], set[str]]:
    """The configuration of the values that are valid, and a problem for each that is not.

    `layer` maps known keys to what was written. The set names the keys that fell back to their
    defaults because their values were invalid.
    """
    values = {key: entry.value for key, entry in layer.items()}
    problems, invalid = _schema_problems(layer, values)
    kept = {key: value for key, value in values.items() if key not in invalid}
    for key in [key for key in PATH_KEYS if key in kept]:
        try:
            kept[key] = expanded(key, kept[key])
        except ConfigError as error:
            problems.append(Problem(error.message, error.hint, key, layer[key].place, trouble=error.trouble))
            invalid.add(key)
            del kept[key]
    config = Config.model_validate(kept)
    # A value that is the default counts as not written: a run's own file has every key, and rules that warn
    # of what has no effect are for what a person wanted.
    wanted = {key: value for key, value in kept.items() if getattr(config, key) != default(key)}
    return Config.model_validate(wanted), problems, invalid


def _schema_problems(layer: Mapping[str, Entry], values: dict[str, Any]) -> tuple[list[Problem], set[str]]:
    """What pydantic finds, and the keys it finds it at."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        findings = error.errors(include_url=False)
        return [_problem(layer, finding) for finding in findings], {str(each["loc"][0]) for each in findings}
    return [], set()


def _problem(layer: Mapping[str, Entry], finding: Any) -> Problem:
    key, *item = finding["loc"]
    value = finding["input"]
    entry = layer[key]
    kind = element_type(key) if item else value_type(key)
    if finding["type"].endswith("_type") or (choices(key) and type(value) is not kind):
        trouble = "wrong-type"
        message = f"Failed to coerce value: {short(repr(value))} to {kind}"
        meant = _list_mended(entry.value, kind) if item else mended(kind, value)
        cure = (
            f"write {assignment(entry, meant)}" if meant else f"for example {assignment(entry, example(key))}"
        )
    else:
        trouble = "out-of-range"
        message = f"Invalid value: {entry.key} = {short(toml_value(entry.value))}"
        cure = _bound(entry, key, finding)
    return Problem(message, f"{cure}; {description(key)}", entry.key, entry.place, trouble=trouble)


def _list_mended(value: list[Any], kind: type) -> str | None:
    """The list as it should be typed, with its sound items as they are; None where one is beyond mending."""
    items = [toml_value(each) if type(each) is kind else mended(kind, each) for each in value]
    return f"[{', '.join(map(str, items))}]" if all(items) else None


def assignment(entry: Entry, spelled: str) -> str:
    """The line of TOML, or the option as a shell takes it, that gives a key a value."""
    if entry.place.source == COMMAND_LINE:
        return f"`--set {shlex.quote(f'{entry.key}={spelled}')}`"
    return f"`{entry.key} = {spelled}`"


def example(key: str) -> str:
    """A value that the key takes, in TOML's spelling."""
    return toml_value(default(key) or value_type(key)())


def mended(kind: type, value: Any) -> str | None:
    """A value of the wrong type in the TOML spelling that was probably meant, or None."""
    text = str(value).strip().strip("\"'").strip()
    if kind is bool:
        meant = BOOLEANS.get(text.lower())
        return None if meant is None else toml_value(meant)
    if kind is list:
        return toml_value([value]) if isinstance(value, str | int | float) else None
    if kind is str:
        return toml_value(text) if isinstance(value, str | int | float) else None
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        return None
    return text if type(parse_toml_value(text)) is kind else toml_value(kind(number))


def _bound(entry: Entry, key: str, finding: Any) -> str:
    """Which values the key takes."""
    if options := choices(key):
        near = nearest(entry.value, options) if isinstance(entry.value, str) else None
        guess = f"did you mean {assignment(entry, toml_value(near))}? " if near else ""
        return f"{guess}it takes {', '.join(map(toml_value, options))}"
    match finding["type"]:
        case "string_pattern_mismatch":
            return f"`{key}` is one folder's name, without / or \\"
        case "string_too_short":
            return f"`{key}` must not {'hold an empty text' if len(finding['loc']) > 1 else 'be empty'}"
        case "too_short":
            return f"`{key}` must have at least {finding['ctx']['min_length']} item"
    bound = finding["msg"].replace("Input should be", "must be")
    reason = f": {_REASONS[key]}" if key in _REASONS and "finite" not in bound else ""
    return f"`{key}` {bound} (default {toml_value(default(key))}){reason}"
