"""TOML and `--set` → a frozen configuration, or all of its problems at once.

    loaded = load_config("prod", ["learning_rate=5e-7"])
    loaded.config.learning_rate       → 5e-07
    loaded.sources["learning_rate"]   → "--set"
    loaded.sources["temperature"]     → "prod.toml:31"

Later sources override earlier ones: the schema's defaults, the file, `--set`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_cli.config.fields import nearest_key, short, toml_value
from grpo_cli.config.foreign_keys import RENAMED, own_value, translated
from grpo_cli.config.meant import is_valid, meant
from grpo_cli.config.overrides import read_overrides
from grpo_cli.config.problems import COMMAND_LINE, Problem, config_error
from grpo_cli.config.resolve import configured_name, find_config, required_name
from grpo_cli.config.rules import breaches
from grpo_cli.config.schema import SUPERSEDED, Config
from grpo_cli.config.toml_source import Document, Entry, read_document
from grpo_cli.config.validation import assignment, check_values
from grpo_cli.errors import ConfigError

Layer = Mapping[str, Entry]  # by current key; an entry keeps the name it was written under


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, the source of each value (`default`, `file:line`, `--set`), and its warnings."""

    config: Config
    sources: dict[str, str]
    warnings: list[Problem]


@dataclass(frozen=True)
class Inspection:
    """All problems and warnings of a configuration; `loaded` is None if there is any error."""

    name: str
    loaded: LoadedConfig | None
    problems: list[Problem]
    warnings: list[Problem]


def load_config(
    name: str | None = None,
    overrides: Sequence[str] = (),
    *,
    required: bool = True,
    on_this_machine: bool = False,
) -> LoadedConfig:
    """Load a configuration by path, shipped name, or `$MLX_GRPO_CONFIG`; `--set` overrides it.

    If no name is given, raise an error, or use the defaults if not `required`. `on_this_machine`: also check
    that the files it names exist here, as for a run that starts now. Raises one ConfigError that lists every
    problem of the file and the overrides.
    """
    name = required_name(name) if required else configured_name(name)
    inspection = inspect_config(name, overrides, on_this_machine=on_this_machine)
    if inspection.loaded is None:
        raise config_error(inspection.problems, inspection.name)
    return inspection.loaded


def inspect_config(
    name: str | None, overrides: Sequence[str] = (), *, on_this_machine: bool = False
) -> Inspection:
    """Collect every problem of a configuration without raising; without a name, of the defaults.

    `on_this_machine`: also check that the reward files and a local model exist here and fit.
    """
    document = _read(name)
    file_layer, file_problems = _settle(document.entries)
    set_document = read_overrides(overrides, {key: entry.value for key, entry in file_layer.items()})
    set_layer, set_problems = _settle(set_document.entries)
    layer = {**file_layer, **set_layer}
    config, value_problems, invalid = check_values(layer)
    found = [
        *document.problems,
        *set_document.problems,
        *file_problems,
        *set_problems,
        *value_problems,
        *_broken_rules(config, layer, invalid, on_this_machine),
    ]
    problems = _in_file_order(problem for problem in found if problem.severity == "error")
    warnings = _in_file_order(problem for problem in found if problem.severity == "warning")
    loaded = None if problems else LoadedConfig(config, _sources(layer), warnings)
    return Inspection(name or "", loaded, problems, warnings)


def _read(name: str | None) -> Document:
    if name is None:
        return Document([], [])
    try:
        path, shown = find_config(name)
    except ConfigError as error:
        return Document([], [Problem(message=error.message, cure=error.hint, trouble=error.trouble)])
    return read_document(path, shown)


def _settle(entries: Iterable[Entry]) -> tuple[dict[str, Entry], list[Problem]]:
    """One source's entries under their current keys; unknown and superseded keys become problems."""
    entries = list(entries)
    current = {entry.key: entry for entry in entries if entry.key in Config.model_fields}
    layer, problems = dict(current), []
    written = {entry.key: entry.value for entry in entries}
    for entry in entries:
        successor = SUPERSEDED.get(entry.key)
        if successor:
            problems.append(_superseded(entry, successor, current.get(successor)))
            layer.setdefault(successor, entry)
        elif entry.key not in current:
            problems.append(_unknown(entry, written))
    return layer, problems


def _superseded(entry: Entry, successor: str, winner: Entry | None) -> Problem:
    message = f"{entry.key} is superseded by {successor}"
    value = entry.value if is_valid(successor, entry.value) else meant(successor, entry.value)
    cure = f"the key is now called `{successor}`"
    if value is not None:
        cure = f"write {assignment(replace(entry, key=successor), toml_value(value))}"
    if winner:
        message += f", which is also given: {successor} = {short(toml_value(winner.value))} is used"
        cure = f"leave {entry.key} out"
    return Problem(
        message=message,
        cure=cure,
        key=entry.key,
        place=entry.place,
        severity="warning",
        trouble="superseded-key",
    )


def _unknown(entry: Entry, written: Mapping[str, Any]) -> Problem:
    message = f"Unknown config key: {short(entry.key)}"
    if foreign := _of_another_program(entry, written):
        cure = foreign
    elif isinstance(entry.value, dict):
        cure = "write its keys at the top of the file; the only table allowed is `[mlx_grpo]`"
    elif near := nearest_key(entry.key):
        cure = f"did you mean `{near}`?"
    else:
        cure = "no key has a similar name; `grpo config init` prints them all"
    return Problem(message=message, cure=cure, key=entry.key, place=entry.place, trouble="unknown-key")


def _of_another_program(entry: Entry, written: Mapping[str, Any]) -> str | None:
    """The fix for a key of TRL, mlx-lm-lora or unsloth: our key with the converted value."""
    value = entry.value
    if entry.place.source == COMMAND_LINE and isinstance(value, str):
        value = own_value(value)
    if (found := translated(entry.key, value, written)) is None:
        return f"did you mean `{RENAMED[entry.key.lower()]}`?" if entry.key.lower() in RENAMED else None
    given = [key for key in found.ours if key in written]
    why = f": {found.why}" if found.why else ""
    if not found.ours or given:
        told = f": {' and '.join(f'`{key}`' for key in given)} is given" if given else why
        return f"leave {entry.key} out{told}"
    lines = [assignment(replace(entry, key=key), toml_value(ours)) for key, ours in found.ours.items()]
    return f"write {' and '.join(lines)}{why}"


def _broken_rules(config: Config, layer: Layer, invalid: set[str], on_this_machine: bool) -> list[Problem]:
    """Violations of the rules between valid keys, each placed at the first of its keys in the file."""
    problems = []
    for breach in breaches(config, on_this_machine):
        if invalid.intersection(breach.keys):
            continue  # an invalid value is reported already
        written = next((layer[key] for key in breach.keys if key in layer), None)
        problem = Problem(
            message=breach.message,
            cure=breach.cure,
            key=breach.keys[0],
            place=None,
            severity=breach.severity,
            trouble=breach.trouble,
        )
        problems.append(replace(problem, key=written.key, place=written.place) if written else problem)
    return problems


def _in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sorted by line; problems without a line (`--set`, the whole file) follow in the order found."""
    return sorted(problems, key=lambda problem: (problem.place and problem.place.line) or float("inf"))


def _sources(layer: Layer) -> dict[str, str]:
    return {key: str(layer[key].place) if key in layer else "default" for key in Config.model_fields}
