"""configs/KEYS.md, made of the schema: a table of the configuration keys for each of its groups.

`python -m grpo_cli.doctor.readme` writes it, with the other documents that are generated.
"""

from grpo_cli.config.fields import choices, default, description, groups, toml_value

LONGEST_DEFAULT = 80  # in characters; the default system message is longer

HEAD = """\
# Configuration keys

Set in a file, or for one run with `--set KEY=VALUE`. Other allowed values follow the default.
`grpo config init` writes all keys with their whole descriptions; `grpo config schema` has their bounds.
Generated from `grpo_cli/config/schema.py` by `{command}`.

"""


def keys_document(command: str) -> str:
    """The whole document; `command` is the one that makes it."""
    return f"{HEAD.format(command=command)}{configuration_keys()}\n"


def configuration_keys() -> str:
    """A table for each group: every key with its default and description."""
    return "\n\n".join(table(heading, keys) for heading, keys in groups().items())


def table(heading: str, keys: list[str]) -> str:
    """The keys of a group, one a line."""
    return "\n".join(
        [
            f"## {heading[:1].upper()}{heading[1:]}",
            "",
            "| key | default | meaning |",
            "|---|---|---|",
            *map(row, keys),
        ]
    )


def row(key: str) -> str:
    """A key's table row: name, default, other allowed values, description."""
    meaning = description(key).split(". ")[0].removesuffix(".").replace("|", "\\|")
    return f"| `{key}` | {values(key)} | {meaning} |"


def values(key: str) -> str:
    """The default as TOML, followed by the other allowed values if the key has choices."""
    usual = toml_value(default(key))
    if len(usual) > LONGEST_DEFAULT:
        usual = f"{usual[:LONGEST_DEFAULT]}…"
    others = ", ".join(f"`{toml_value(choice)}`" for choice in choices(key) if choice != default(key))
    return f"`{usual}`; {others}" if others else f"`{usual}`"
