"""A run's configuration as a page shows it: every key, with those that differ from the defaults marked.

    rows = settings_rows({"model_name": "tiny", "seed": 7})
    rows[1]     # {"key": "seed", "value": "7", "default": "42", "differs": True, "about": …}

The values are the file's own, not checked: a page can also be made of a run by another version.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from grpo_cli.config.fields import default, description, toml_value
from grpo_cli.config.schema import Config
from grpo_cli.foreign_text import one_line, quoted
from grpo_cli.report.machines import install_command
from grpo_cli.report.marks import label
from grpo_cli.report.read import RunRecord

LONGEST_VALUE = 400  # characters
MOST_KEYS = 400
NAMES_OF_A_RUN = ("run_name", "output_dir")  # they differ between any two runs


def settings_rows(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The keys in the file's order, each with its default and description if this version knows it."""
    return [setting_row(key, value) for key, value in [*settings.items()][:MOST_KEYS]]


def setting_row(key: str, value: Any) -> dict[str, Any]:
    """One key: its value and its default as TOML, and True if they differ."""
    is_known = key in Config.model_fields
    usual = default(key) if is_known else PydanticUndefined
    has_default = usual is not PydanticUndefined
    return {
        "key": label(key),
        "value": written(value),
        "default": written(usual) if has_default else "",
        "differs": not has_default or usual != value,
        "about": description(key) if is_known else "",
    }


def written(value: Any) -> str:
    """A value as TOML on one line, bounded."""
    try:
        text = one_line(toml_value(value))
    except (TypeError, ValueError, RecursionError):  # a date, or another value that no key has
        text = one_line(str(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def differing(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The keys whose values differ between runs: {"key": "seed", "values": ["1", "2"]}; "–": no such key."""
    keys = dict.fromkeys(key for run in runs for key in [*run.settings][:MOST_KEYS])
    rows = []
    for key in [key for key in keys if key not in NAMES_OF_A_RUN]:
        values = [written(run.settings[key]) if key in run.settings else "–" for run in runs]
        if len(set(values)) > 1:
            rows.append({"key": label(key), "values": values})
    return rows


def commands_of(run: RunRecord) -> list[tuple[str, str]]:
    """(purpose, command) to repeat, measure, examine and continue a run; paths as they were given."""
    folder = quoted(run.folder)
    config, final = quoted(run.folder / "config.toml"), quoted(run.folder / "final")
    again = [("repeat it", f"grpo train --config {config} --set run_name={quoted(f'{run.name}-again')}")]
    if install := install_command(run):
        again.insert(0, ("install its versions", install))
    if not run.is_finished:
        return [
            ("continue it", f"grpo resume {folder}"),
            *again,
            ("examine it", f"grpo doctor --run {folder}"),
        ]
    return [
        *again,
        ("measure its model", f"grpo eval --model {final}"),
        ("ask its model", f'grpo generate --model {final} --prompt "…"'),
        ("examine it", f"grpo doctor --run {folder}"),
    ]
