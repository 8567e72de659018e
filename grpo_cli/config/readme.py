"""README's tables of the configuration keys, made of the schema: a table for each of its groups.

`python -m grpo_cli.doctor.readme README.md` writes them, with the troubleshooting.
"""

from grpo_cli.config.fields import choices, default, description, groups, toml_value

LONGEST_DEFAULT = 80  # characters; the default system message is longer


def configuration_keys() -> str:
    """Every key under its group's heading: its default, and what it is for in a sentence."""
    return "\n\n".join(table(heading, keys) for heading, keys in groups().items())


def table(heading: str, keys: list[str]) -> str:
    """The keys of a group, one a line."""
    return "\n".join([f"**{heading}**", "", "| key | default | meaning |", "|---|---|---|", *map(row, keys)])


def row(key: str) -> str:
    """A key as a line of its table; the other values that it may have stand behind its default."""
    meaning = description(key).split(". ")[0].removesuffix(".").replace("|", "\\|")
    return f"| `{key}` | {values(key)} | {meaning} |"


def values(key: str) -> str:
    """A key's default as TOML, and the others of a key that has a few named values."""
    usual = toml_value(default(key))
    if len(usual) > LONGEST_DEFAULT:
        usual = f"{usual[:LONGEST_DEFAULT]}…"
    others = ", ".join(f"`{toml_value(choice)}`" for choice in choices(key) if choice != default(key))
    return f"`{usual}`; {others}" if others else f"`{usual}`"
