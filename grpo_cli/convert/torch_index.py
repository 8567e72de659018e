"""The index of a .pt file, `data.pkl`: the name, format and location of every tensor, without torch.

    read_index(pickle bytes)["lm_head.weight"] == TensorInfo(float32, (1000, 64), (64, 1), 0, "data/25", …)

The pickle may only use the names in `ALLOWED`, the parts of a state dict, and is only read as data (see
models/pickle_reader.py).
"""

import math
from dataclasses import dataclass
from typing import Any

from grpo_cli.convert.dtypes import DTYPES, DType
from grpo_cli.models.pickle_reader import RefusedPickle, read_pickle, shown

LARGEST_INDEX = 8 << 20  # bytes; a tensor takes about 150
MOST_DIMENSIONS = 32  # numpy 1's limit
LARGEST_EXPANSION = 1 << 30  # bytes of a tensor that repeats the numbers of its storage (strides of 0)
LARGEST_NUMBER = 1 << 48  # no element count, offset or stride is larger


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file: `count` of them in the record `data/<key>`."""

    dtype: DType
    key: str
    count: int


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """A tensor as a view of its storage; offset and stride count elements, as torch does."""

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """One past the last element of the storage that the tensor uses, 0 if it uses none."""
        if not self.count:
            return 0
        steps = zip(self.shape, self.stride, strict=True)
        return self.offset + sum((size - 1) * step for size, step in steps) + 1


class _Ordered(dict[Any, Any]):
    """Stand-in for OrderedDict that ignores the attribute `_metadata` (versions of modules)."""

    def __init__(self, *arguments: Any) -> None:
        if arguments:
            raise RefusedPickle("it calls collections.OrderedDict with arguments")
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> TensorInfo:
    """torch._utils._rebuild_tensor_v2."""
    if type(storage) is not Storage:
        raise RefusedPickle("it builds a tensor that has no storage")
    if not (_are_counts((offset,)) and _are_counts(shape) and _are_counts(stride)):
        raise RefusedPickle("it builds a tensor whose shape, stride or offset is impossible")
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
        raise RefusedPickle(f"it builds a tensor of {len(shape)} sizes and {len(stride)} strides")
    if metadata:  # marks negated or conjugated numbers
        raise RefusedPickle("it builds a tensor with lazy operations, which only torch can do")
    info = TensorInfo(dtype=storage.dtype, shape=shape, stride=stride, offset=offset, storage=storage)
    if math.prod(size for size in shape if size) > LARGEST_NUMBER:
        raise RefusedPickle("it builds a tensor whose shape, stride or offset is impossible")
    if info.count > storage.count and info.count * info.dtype.size > LARGEST_EXPANSION:
        raise RefusedPickle("it builds a tensor far larger than its storage")
    return info


def _parameter(tensor: Any, _grad: Any, _hooks: Any) -> TensorInfo:
    """torch._utils._rebuild_parameter: a trained tensor."""
    if type(tensor) is not TensorInfo:
        raise RefusedPickle("it builds a parameter that has no tensor")
    return tensor


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": _Ordered,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    **{dtype.storage: dtype for dtype in DTYPES.values()},
}


def read_index(data: bytes) -> dict[str, TensorInfo]:
    """The tensors of a pickled state dict in order.

    Raises RefusedPickle for anything else: a name that is not allowed, a damaged pickle, a tensor outside its
    storage, a value that is not a tensor.
    """
    if len(data) > LARGEST_INDEX:
        raise RefusedPickle(f"it is larger than {LARGEST_INDEX >> 20} MB")
    found = read_pickle(data, ALLOWED, "which a state dict has no use for", _storage)
    if not isinstance(found, dict):
        raise RefusedPickle(f"it holds {_kind(found)}, not a state dict")
    if not found:
        raise RefusedPickle("it is a state dict without tensors")
    for name, value in found.items():
        _check_entry(name, value)
    return dict(found)


def _storage(pid: Any) -> Storage:
    """The storage for the persistent id ("storage", class, key, location, element count)."""
    if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not DType:
        raise RefusedPickle("it refers to something outside the file that is not a storage")
    _, dtype, key, _location, count = pid
    if type(key) is not str or not _are_counts((count,)):
        raise RefusedPickle("it refers to a storage without key or size")
    return Storage(dtype, key, count)


def _are_counts(numbers: Any) -> bool:
    return type(numbers) is tuple and all(
        type(number) is int and 0 <= number <= LARGEST_NUMBER for number in numbers
    )


def _kind(value: Any) -> str:
    """A readable name for the type of a value in the pickle."""
    names = {TensorInfo: "single tensor", Storage: "storage", DType: "storage class", _Ordered: "dict"}
    kind = names.get(type(value), type(value).__name__)
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _check_entry(name: Any, value: Any) -> None:
    if type(name) is not str or not name.isprintable():
        raise RefusedPickle("it holds a name that is not plain text")
    if type(value) is not TensorInfo:
        raise RefusedPickle(f"its entry {shown(name)} is {_kind(value)}, not a tensor")
    if value.end > value.storage.count:
        raise RefusedPickle(
            f"the tensor {shown(name)} goes past the end of its storage "
            f"(element {value.end} of {value.storage.count})"
        )
