"""Check values against the schema and report pydantic's errors with our own messages."""

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

# Reasons for bounds on values that would be valid elsewhere, and what to write instead.
_REASONS = {
    "temperature": (
        "at 0 all completions of a group would be the same, and so would their rewards: nothing to learn; "
        "write `temperature = 0.7`"
    ),
    "num_generations": "the completions of a group are compared; write `num_generations = 8`",
    "top_p": "write `top_p = 1.0` to sample from all tokens",
    "max_grad_norm": "gradients are scaled down to it; write `max_grad_norm = 1e9` to disable clipping",
}

_EXAMPLES = {"chat_template_kwargs": {"enable_thinking": False}}  # where the default shows no form


def check_values(layer: Mapping[str, Entry]) -> tuple[Config, list[Problem], set[str]]:
    """A configuration of the valid values, and a problem for each invalid one.

    `layer` maps known keys to their entries. The set holds the keys that fell back to their defaults because
    their values were invalid.
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
    # A value equal to the default counts as not written: a run's own config.toml has every key, and
    # warnings about keys without effect are only for keys that the user changed.
    wanted = {key: value for key, value in kept.items() if getattr(config, key) != default(key)}
    return Config.model_validate(wanted), problems, invalid


def _schema_problems(layer: Mapping[str, Entry], values: dict[str, Any]) -> tuple[list[Problem], set[str]]:
    """Pydantic's errors as problems, and the keys concerned."""
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
    """The line of TOML, or the `--set` option, that assigns the value."""
    if entry.place.source == COMMAND_LINE:
        return f"`--set {quoted(f'{entry.key}={spelled}')}`"
    return f"`{entry.key} = {spelled}`"


def example(key: str) -> str:
    """A valid value for the key, in TOML."""
    return toml_value(_EXAMPLES.get(key) or default(key) or value_type(key)())


def _bound(entry: Entry, key: str, finding: Any) -> str:
    """The allowed values of a key, for the cure."""
    if options := choices(key):
        return f"{_guess(entry, key)}it takes {', '.join(map(toml_value, options))}"
    bound = _words(finding)
    if key in _REASONS and "finite" not in bound:
        return f"`{key}` {bound} (default {toml_value(default(key))}): {_REASONS[key]}"
    guess = meant(key, entry.value)
    written = assignment(entry, example(key) if guess is None else toml_value(guess))
    return f"`{key}` {bound}: {'for example' if guess is None else 'write'} {written}"


def _guess(entry: Entry, key: str) -> str:
    """A suggestion: the probable allowed value, or another key that takes this value."""
    value = entry.value
    found = translated(key, value, {})
    if found and found.ours:
        return f"did you mean {' and '.join(_lines(entry, found.ours))} in its place? "
    near = nearest(value, choices(key)) if isinstance(value, str) else None
    if (near := near or meant(key, value)) is not None:
        return f"did you mean {assignment(entry, toml_value(near))}? "
    return f"for example {assignment(entry, example(key))}; "


def _lines(entry: Entry, ours: Mapping[str, Any]) -> list[str]:
    return [assignment(replace(entry, key=key), toml_value(value)) for key, value in ours.items()]


def _words(finding: Any) -> str:
    """Wording of the violated bound."""
    match finding["type"]:
        case "string_pattern_mismatch":
            return "must be a single folder name, without / or \\, of at most 80 characters"
        case "string_too_short":
            return f"must not {'contain an empty text' if len(finding['loc']) > 1 else 'be empty'}"
        case "too_short":
            return f"must have at least {finding['ctx']['min_length']} item"
        case "value_error":
            return str(finding["ctx"]["error"])
    return str(finding["msg"].replace("Input should be", "must be"))
