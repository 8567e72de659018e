"""Compare config.json with the weights before a model is built from it.

mlx-lm builds whatever it reads: 10^9 layers are an endless loop, a dimension of 10^12 an allocation that
kills the process. So a count or size that the weights could not fill is refused first, by name.
"""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_lm.models.base import BaseModelArgs

from grpo_cli.models.safetensors_header import Tensor
from grpo_cli.untrusted_json import DamagedFile, dotted, shown

FEWEST_COUNTED, FEWEST_SIZE = 1000, 1 << 20  # smaller counts and sizes are harmless
PACKED = 16  # maximum numbers per packed word
LONGEST = 10_000  # items of a list, or characters of a text
COUNTS = ("layer", "expert", "block", "pattern")  # created one by one
SIZES = ("size", "dim", "width", "rank")  # a count named with one of these is a size: of an expert, a block
# Numbers that allocate nothing: positions, ids, factors.
UNBOUNDED = ("position", "token", "_id", "window", "theta", "base", "len", "max_", "version", "seed", "scal")
FRACTIONS = ("rotary_pct", "rotary_factor", "rope_pct")
KINDS: dict[Any, tuple[type, ...]] = {int: (int, float), float: (int, float), bool: (bool, int), str: (str,)}
KINDS |= {list: (list,), tuple: (list,), dict: (dict,)}
NAMES = {int: "a number", float: "a number", bool: "true or false", str: "a text", list: "a list"}
NAMES |= {tuple: "a list", dict: "an object"}


def check_config(config: Mapping[str, Any], arguments: type, tensors: Mapping[str, Tensor]) -> None:
    """Raise DamagedFile for a config.json that describes no model, or none with these weights.

    `arguments`: mlx-lm's dataclass for the fields.
    """
    fields = {k: v for k, v in inspect.signature(arguments).parameters.items() if k != "self"}
    hints = _hints(arguments)
    read: Any = getattr(arguments, "from_dict", None)  # a class's own may fill in missing fields
    reads_plainly = getattr(read, "__func__", None) is BaseModelArgs.from_dict.__func__  # type: ignore[attr-defined]
    for name, field in fields.items():
        if name not in config:
            if field.default is inspect.Parameter.empty and reads_plainly:
                raise DamagedFile(f"has no `{name}`")
        else:
            _check_kind(name, config[name], hints.get(name, Any), field.default)
    sizes = [size for tensor in tensors.values() for size in tensor.shape]
    stacked = [tensor.shape[0] for tensor in tensors.values() if len(tensor.shape) > 2]  # experts
    most_counted = max(FEWEST_COUNTED, len(tensors), *stacked)
    most = max(FEWEST_SIZE, PACKED * max(sizes, default=0))
    for place, value in _leaves({name: config[name] for name in fields if name in config}):
        _check_value(place, value, most_counted, most)
    check_ends(config)


def check_ends(config: Mapping[str, Any]) -> None:
    """Raise DamagedFile for an `eos_token_id` that is neither an id nor a list of ids."""
    ends = config.get("eos_token_id")
    found = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if len(found) > LONGEST or not all(type(end) is int and -1 <= end < 1 << 31 for end in found):
        raise DamagedFile(f"has `eos_token_id` = {shown(ends)}: it must be a token's id or a list of ids")


def _hints(arguments: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(arguments)
    except (NameError, TypeError):  # a name that exists only for type checkers
        return {}


def _check_kind(name: str, value: Any, hint: Any, default: Any) -> None:
    """Raise DamagedFile if a value does not have the field's type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = {typing.get_origin(option) or option for option in options} - {type(None)}
    if not kinds <= KINDS.keys() or "token_id" in name:
        return
    has_default = default is not inspect.Parameter.empty
    if value is None and (has_default or type(None) in options or not kinds & {int, float}):
        return
    allowed = tuple(kind for hinted in kinds for kind in KINDS[hinted])
    is_odd = isinstance(value, bool) and bool not in allowed
    if is_odd or not isinstance(value, allowed):
        names = " or ".join(sorted({NAMES[kind] for kind in kinds}))
        raise DamagedFile(f"has `{name}` = {shown(value)}: it must be {names}")


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path → every number, text and list length in a document; list items share the path of their list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*place, key))
    elif isinstance(value, list):
        yield place, value
        for item in value:
            yield from _leaves(item, place)
    else:
        yield place, value


def _check_value(place: tuple[str, ...], value: Any, most_counted: int, most: int) -> None:
    key = place[-1]
    names_count = any(part in key for part in COUNTS) and not any(part in key for part in SIZES)
    is_count = names_count and not isinstance(value, float)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, list | str):
        limit, found = most_counted if is_count else LONGEST, len(value)
    elif is_number and any(part in key for part in FRACTIONS):
        limit, found = 1, abs(value)
    elif isinstance(value, int) and is_number and not any(part in key for part in UNBOUNDED):
        limit, found = most_counted if is_count else most, abs(value)
    else:
        return
    if found > limit:
        raise DamagedFile(f"has `{dotted(place)}` = {shown(value)}, more than its weights could fill")
