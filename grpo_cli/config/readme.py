"""README's tables of configuration keys, generated from the schema: one table for each group.

`python -m grpo_cli.doctor.readme README.md` writes them, together with the troubleshooting section.
"""

from grpo_cli.config.fields import choices, default, description, groups, toml_value

LONGEST_DEFAULT = 80  # in characters; the default system message is longer


def configuration_keys() -> str:
    """A table for each group: every key with its default and description."""
    return "\n\n".join(table(heading, keys) for heading, keys in groups().items())


def table(heading: str, keys: list[str]) -> str:
    """A heading and the table of a group's keys."""
    return "\n".join([f"**{heading}**", "", "| key | default | meaning |", "|---|---|---|", *map(row, keys)])


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
