"""What config.json asks for, compared with the weights before a model is made of it.

mlx-lm builds what it reads: 10^9 layers are a loop that never ends, a dimension of 10^12 an allocation that
kills the process. A count that no file of weights could fill is refused by its name first.
"""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_lm.models.base import BaseModelArgs

from grpo_cli.models.safetensors_header import Tensor
from grpo_cli.untrusted_json import DamagedFile, dotted, shown

FEWEST_COUNTED, FEWEST_SIZE = 1000, 1 << 20  # below these a count, or a size, does no harm whatever it is
PACKED = 16  # numbers that a packed word holds at most
LONGEST = 10_000  # items of a list, characters of a text
COUNTS = ("layer", "expert", "block", "pattern")  # what is made one by one
SIZES = ("size", "dim", "width", "rank")  # a count's name with one of these is a size: of an expert, a block
# Numbers that nothing is made of: places in a text, ids, factors.
UNBOUNDED = ("position", "token", "_id", "window", "theta", "base", "len", "max_", "version", "seed", "scal")
FRACTIONS = ("rotary_pct", "rotary_factor", "rope_pct")
KINDS: dict[Any, tuple[type, ...]] = {int: (int, float), float: (int, float), bool: (bool, int), str: (str,)}
KINDS |= {list: (list,), tuple: (list,), dict: (dict,)}
NAMES = {int: "a number", float: "a number", bool: "true or false", str: "a text", list: "a list"}
NAMES |= {tuple: "a list", dict: "an object"}


def check_config(config: Mapping[str, Any], arguments: type, tensors: Mapping[str, Tensor]) -> None:
    """Raise DamagedFile for a config.json that no model can be made of, or none with these weights.

    `arguments`: the class that mlx-lm reads the fields into.
    """
    fields = {k: v for k, v in inspect.signature(arguments).parameters.items() if k != "self"}
    hints = _hints(arguments)
    read: Any = getattr(arguments, "from_dict", None)  # a class with its own may fill in what is missing
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
    except (NameError, TypeError):  # a name that only a type checker knows
        return {}


def _check_kind(name: str, value: Any, hint: Any, default: Any) -> None:
    """Raise DamagedFile for a value of another kind than the field's."""
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
    """Place → every number, text and list's length in a document; a list's items have the list's place."""
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
