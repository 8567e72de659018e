"""Keys of config.json that transformers 5 renamed, under the names that mlx-lm's models read.

with_older_keys({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, ModelArgs)
# adds rope_theta = 1e4; mlx-lm would take its model's own default and compute other positions
"""

import inspect
from collections.abc import Iterator
from typing import Any

TABLE = "rope_parameters"
# in transformers 5 → in mlx-lm
RENAMED = {"num_local_experts": "num_experts"}
# layer type with a table of its own → mlx-lm's key for its base
BASES = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}


def with_older_keys(config: dict[str, Any], arguments: type) -> dict[str, Any]:
    """The configuration with the older keys that `arguments`, mlx-lm's dataclass, reads.

    Keys that are there already stay, and so does what `arguments` reads by its new name.
    """
    fields = inspect.signature(arguments).parameters
    found = {
        old: config[new] for new, old in RENAMED.items() if new in config and new not in fields
    }  # fmt: skip
    if TABLE not in fields and isinstance(config.get(TABLE), dict):
        found |= dict(_of_table(config[TABLE]))
    return {**{key: value for key, value in found.items() if key in fields}, **config}


def _of_table(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The single keys of a table of RoPE parameters, or of one table for each layer type."""
    for kind, key in BASES.items():
        if isinstance(table.get(kind), dict) and "rope_theta" in table[kind]:
            yield key, table[kind]["rope_theta"]
    yield from ((key, table[key]) for key in ("rope_theta", "partial_rotary_factor") if key in table)
    if table.get("rope_type", "default") != "default":
        yield "rope_scaling", {key: value for key, value in table.items() if key != "rope_theta"}
