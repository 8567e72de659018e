"""RoPE settings of config.json: transformers 5 writes one table where mlx-lm's models read single keys.

with_rope_keys({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, ModelArgs)
# adds rope_theta = 1e4; mlx-lm would take its model's own default and compute other positions
"""

import inspect
from typing import Any

TABLE = "rope_parameters"


def with_rope_keys(config: dict[str, Any], arguments: type) -> dict[str, Any]:
    """The configuration with the keys that `arguments`, mlx-lm's dataclass, reads in place of the table.

    Keys that are there already stay; tables by layer type, which only models that know them have, too.
    """
    table, fields = config.get(TABLE), inspect.signature(arguments).parameters
    if not isinstance(table, dict) or TABLE in fields:
        return config
    found = {key: table[key] for key in ("rope_theta", "partial_rotary_factor") if key in table}
    if table.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in table.items() if key != "rope_theta"}
    return {**{key: value for key, value in found.items() if key in fields}, **config}
