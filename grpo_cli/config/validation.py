"""Checks values against the schema: pydantic's findings in the words of our error texts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from grpo_cli.config.fields import (
    choices,
    default,
    description,
    element_type,
    nearest,
    short,
    toml_value,
    value_type,
)
from grpo_cli.config.foreign_keys import translated
from grpo_cli.config.meant import meant
from grpo_cli.config.paths import PATH_KEYS, expanded
from grpo_cli.config.problems import COMMAND_LINE, Problem
from grpo_cli.config.schema import Config
from grpo_cli.config.toml_source import Entry
from grpo_cli.errors import ConfigError
from grpo_cli.foreign_text import quoted

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
            problems.append(
                Problem(
                    message=error.message,
                    cure=error.hint,
                    key=key,
                    place=layer[key].place,
                    trouble=error.trouble,
                )
            )
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
        guess = meant(key, entry.value)
        cure = (
            f"for example {assignment(entry, example(key))}"
            if guess is None
            else f"write {assignment(entry, toml_value(guess))}"
        )
    else:
        trouble = "out-of-range"
        message = f"Invalid value: {entry.key} = {short(toml_value(entry.value))}"
        cure = _bound(entry, key, finding)
    return Problem(
        message=message, cure=f"{cure}; {description(key)}", key=entry.key, place=entry.place, trouble=trouble
    )


def assignment(entry: Entry, spelled: str) -> str:
    """The line of TOML, or the option as a shell takes it, that gives a key a value."""
    if entry.place.source == COMMAND_LINE:
        return f"`--set {quoted(f'{entry.key}={spelled}')}`"
    return f"`{entry.key} = {spelled}`"


def example(key: str) -> str:
    """A value that the key takes, in TOML's spelling."""
    return toml_value(default(key) or value_type(key)())


def _bound(entry: Entry, key: str, finding: Any) -> str:
    """Which values the key takes."""
    if options := choices(key):
        return f"{_guess(entry, key)}it takes {', '.join(map(toml_value, options))}"
    bound = _words(finding)
    if key in _REASONS and "finite" not in bound:
        return f"`{key}` {bound} (default {toml_value(default(key))}): {_REASONS[key]}"
    guess = meant(key, entry.value)
    written = assignment(entry, example(key) if guess is None else toml_value(guess))
    return f"`{key}` {bound}: {'for example' if guess is None else 'write'} {written}"


def _guess(entry: Entry, key: str) -> str:
    """The allowed value that was probably meant, or the other key that the value is for."""
    value = entry.value
    near = nearest(value, choices(key)) if isinstance(value, str) else None
    if (near := near or meant(key, value)) is not None:
        return f"did you mean {assignment(entry, toml_value(near))}? "
    if found := translated(key, value, {}):
        return f"did you mean {' and '.join(_lines(entry, found.ours))} in its place? "
    return f"for example {assignment(entry, example(key))}; "


def _lines(entry: Entry, ours: Mapping[str, Any]) -> list[str]:
    return [assignment(replace(entry, key=key), toml_value(value)) for key, value in ours.items()]


def _words(finding: Any) -> str:
    """The bound that the value is beyond."""
    match finding["type"]:
        case "string_pattern_mismatch":
            return "is one folder's name, without / or \\, of at most 80 characters"
        case "string_too_short":
            return f"must not {'hold an empty text' if len(finding['loc']) > 1 else 'be empty'}"
        case "too_short":
            return f"must have at least {finding['ctx']['min_length']} item"
    return str(finding["msg"].replace("Input should be", "must be"))
