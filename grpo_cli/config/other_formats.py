"""Recognise configurations in YAML or JSON and rewrite them as equivalent TOML.

    beta: 0.04                      kl_coeff = 0.04
    use_vllm: true           →      # use_vllm is left out: rollouts are sampled by MLX in this process
    foo: 1                          # foo is left out: no key has a similar name

The result is valid: keys that cannot be translated become comments with the reason.
"""

import re
from collections.abc import Mapping
from typing import Any

from grpo_cli.config.fields import short, toml_value
from grpo_cli.config.foreign_keys import fitting
from grpo_cli.config.rules import breaches
from grpo_cli.config.schema import Config
from grpo_cli.untrusted_json import DamagedFile, parse_object

BARE = re.compile(r"[\w.-]+")  # otherwise a line of broken TOML that contains a colon
LARGEST = 1_000_000  # characters; a real configuration has about a thousand


def read_other(text: str) -> tuple[str, dict[str, Any]] | None:
    """The format's name and the parsed table, if the text is a table in JSON or YAML."""
    if len(text) > LARGEST:
        return None
    for name, read in (("JSON", _json), ("YAML", _yaml)):
        table = read(text)
        if table and all(isinstance(key, str) and BARE.fullmatch(key) for key in table):
            return name, table
    return None


def _json(text: str) -> dict[str, Any] | None:
    try:
        return parse_object(text)
    except DamagedFile:
        return None


def _yaml(text: str) -> dict[str, Any] | None:
    import yaml

    class Plain(yaml.SafeLoader):
        """YAML loader that refuses aliases: nine of them can expand to a billion items."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
            return super().compose_node(parent, index)

    try:
        table = yaml.load(text, Plain)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def as_toml(table: Mapping[str, Any]) -> str:
    """TOML lines for a table of our keys or another program's."""
    inner = table.get("mlx_grpo")
    if isinstance(inner, dict):
        table = {**{key: value for key, value in table.items() if key != "mlx_grpo"}, **inner}
    ours: dict[str, Any] = {}
    remarks: list[str] = []
    for key, value in table.items():
        found = fitting(key, value, table)
        if found is None:
            known = key in Config.model_fields
            why = f"{key} cannot be {short(_shown(value))}" if known else "no key has a similar name"
            remarks.append(f"# {short(key)} is left out: {why}")
        elif not found.ours:
            remarks.append(f"# {key} is left out: {found.why}")
        else:
            ours |= {our: v for our, v in found.ours.items() if key in Config.model_fields or our not in ours}
    refused = _refused(ours)
    lines = [f"{key} = {toml_value(value)}" for key, value in ours.items() if key not in refused]
    remarks += [f"# {key} is left out: {why}" for key, why in refused.items()]
    return "\n".join(_on_one_line(line) for line in [*lines, *remarks])


def _refused(ours: dict[str, Any]) -> dict[str, str]:
    """Keys that violate a rule, with the reason; without them the rest is valid."""
    refused: dict[str, str] = {}
    while errors := [
        breach
        for breach in breaches(Config.model_validate({k: v for k, v in ours.items() if k not in refused}))
        if breach.severity == "error"
    ]:
        key = next((key for key in errors[0].keys if key in ours and key not in refused), None)
        if key is None:
            break
        refused[key] = errors[0].message
    return refused


def _shown(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, dict) else toml_value(value)


def _on_one_line(line: str) -> str:
    return " ".join(line.split("\n")) if line.startswith("#") else line
