"""Render a configuration: flat TOML with sources, a commented starting file, JSON Schema."""

import textwrap
from typing import Any

from grpo_cli.config.fields import default, description, groups, toml_value
from grpo_cli.config.load import LoadedConfig
from grpo_cli.config.schema import SUPERSEDED, Config

_COMMENT_COLUMN = 44


def dump_config(config: Config) -> str:
    """The resolved configuration as flat TOML, one key per line; loading it gives the same configuration."""
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in config.model_dump().items())


def show_config(loaded: LoadedConfig) -> str:
    """Flat TOML with the source of each value as a comment."""
    values = loaded.config.model_dump()
    return "".join(
        _commented(f"{key} = {toml_value(value)}", loaded.sources[key]) for key, value in values.items()
    )


def starting_file(config: Config, shown: str) -> str:
    """An editable file with every key by group: description and default.

    `shown`: the file's own name, for the commands in its header.
    """
    parts = [
        f"# Check this file:  grpo config validate {shown}\n# Train with it:    grpo train --config {shown}\n"
    ]
    for heading, keys in groups().items():
        parts.append(f"\n# --- {heading} ---\n")
        parts += [_described(key, getattr(config, key)) for key in keys]
    return "".join(parts)


def _described(key: str, value: Any) -> str:
    comment = textwrap.fill(description(key), 100, initial_indent="# ", subsequent_indent="# ")
    note = "default" if value == default(key) else f"default: {toml_value(default(key))}"
    return f"\n{comment}\n" + _commented(f"{key} = {toml_value(value)}", note)


def _commented(line: str, comment: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in comment)
    return f"{line:<{_COMMENT_COLUMN}}  # {printable}\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file: all keys, superseded keys, and the `[mlx_grpo]` table."""
    schema = Config.model_json_schema()
    properties: dict[str, Any] = schema["properties"]
    for old, new in SUPERSEDED.items():
        successor = {
            name: value for name, value in properties[new].items() if name not in ("default", "title")
        }
        properties[old] = {**successor, "description": f"Superseded by {new}.", "deprecated": True}
    properties["mlx_grpo"] = {"$ref": "#", "description": "The same keys in a table, as in MLX-GRPO's files."}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return (
        head | schema | {"title": "grpo configuration", "description": "Keys of a grpo configuration file."}
    )
