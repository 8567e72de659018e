"""Name maps: convert the tensors of one format to another by a table of small two-way operations.

    ops = [StripPrefix("_orig_mod."), CropRows(("lm_head.weight",), padded=1024, rows=1000)]
    there = forward(ops, tensors)          # one after the other
    back = backward(ops, there)            # in reverse: the inverse comes free

Each operation changes one tensor's name or rows and has an inverse. No numbers are read here: an
operation wraps the tensor's `read`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from grpo_cli.convert.dtypes import Array
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.models.pickle_reader import shown

MOST_LISTED = 6  # names in an error

Shapes = Mapping[str, tuple[int, ...]]


class Operation(Protocol):
    """One entry of a name map."""

    def forward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        """The tensor in the new format."""

    def backward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        """The tensor in the old format."""


@dataclass(frozen=True)
class StripPrefix:
    """Drop a meaningless prefix, such as torch.compile's; the inverse does not restore it."""

    prefix: str

    def forward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        return replace(tensor, name=tensor.name.removeprefix(self.prefix))

    def backward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        return tensor


@dataclass(frozen=True)
class Rename:
    """Rename one tensor or, with `*`, a family: `model.layers.*.q=transformer.h.*.attn.c_q`.

    A `*` matches any text, the same on both sides and in the same order.
    """

    old: str
    new: str

    def forward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        return replace(tensor, name=_renamed(tensor.name, self.old, self.new))

    def backward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        return replace(tensor, name=_renamed(tensor.name, self.new, self.old))


@dataclass(frozen=True)
class CropRows:
    """Keep the first `rows` rows of some tensors: the others belong to no token.

    The inverse pads with zeros up to `padded` rows.
    """

    names: tuple[str, ...]
    padded: int
    rows: int

    def forward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        if tensor.name not in self.names or not tensor.shape or tensor.shape[0] != self.padded:
            return tensor
        shape = (self.rows, *tensor.shape[1:])
        return replace(tensor, shape=shape, read=lambda: tensor.read()[: self.rows])

    def backward(self, tensor: OutgoingTensor) -> OutgoingTensor:
        if tensor.name not in self.names or not tensor.shape or tensor.shape[0] != self.rows:
            return tensor

        def read() -> Array:
            values = tensor.read()
            missing = np.zeros((self.padded - self.rows, *values.shape[1:]), values.dtype)
            return np.concatenate([values, missing])

        return replace(tensor, shape=(self.padded, *tensor.shape[1:]), read=read)


def forward(operations: Sequence[Operation], tensors: Iterable[OutgoingTensor]) -> list[OutgoingTensor]:
    """Apply every operation in order to every tensor."""
    done = list(tensors)
    for operation in operations:
        done = [operation.forward(tensor) for tensor in done]
    return done


def backward(operations: Sequence[Operation], tensors: Iterable[OutgoingTensor]) -> list[OutgoingTensor]:
    """Apply the operations' inverses, last one first."""
    done = list(tensors)
    for operation in reversed(operations):
        done = [operation.backward(tensor) for tensor in done]
    return done


def parse_renames(texts: Sequence[str]) -> list[Rename]:
    """`--rename OLD=NEW` texts as operations.

    Raises ConversionError for a text without `=`, and for sides with unequal numbers of `*`.
    """
    operations: list[Rename] = []
    for text in texts:
        old, _, new = text.partition("=")
        if not old or not new or old.count("*") != new.count("*"):
            raise ConversionError(
                f"--rename {text} is not OLD=NEW",
                "write the name in the file, `=` and the model's name; a `*` on both sides stands for the "
                "same text: `--rename 'model.layers.*.q=transformer.h.*.attn.c_q'`",
            )
        operations.append(Rename(old, new))
    return operations


def check_used(renames: Sequence[Rename], tensors: Sequence[OutgoingTensor]) -> None:
    """Raise ConversionError for a rename that matches nothing: it is misspelt."""
    for rename in renames:
        changed = [rename.forward(tensor) for tensor in tensors]
        if all(new.name == old.name for new, old in zip(changed, tensors, strict=True)):
            raise ConversionError(
                f"--rename {rename.old}={rename.new} matches no tensor",
                f"the file has {listed([tensor.name for tensor in tensors])}",
            )
        tensors = changed


def check_names(found: Shapes, expected: Shapes, source: str) -> None:
    """Compare names and shapes with the architecture's.

    Raises ConversionError that lists missing and unknown tensors and wrong shapes.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if not (missing or unknown or wrong):
        return
    parts = [
        f"{label}: {listed(names)}"
        for label, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        if names
    ]
    hint = "name the tensors as the model does with `--rename OLD=NEW`" if missing and unknown else ""
    raise ConversionError(
        f"the tensors of {source} do not fit its model_config\n  " + "\n  ".join(parts),
        hint or "weights and meta must come from the same checkpoint",
    )


def listed(names: Sequence[str]) -> str:
    """Some names, and the number of the others."""
    some = ", ".join(shown(name) for name in names[:MOST_LISTED])
    return some + (f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else "")


def _renamed(name: str, old: str, new: str) -> str:
    """The name with `old` replaced by `new`, if `old` matches it."""
    pattern = "(.+?)".join(re.escape(part) for part in old.split("*"))
    match = re.fullmatch(pattern, name)
    if match is None:
        return name
    texts = iter([*match.groups(), ""])
    return "".join(part + next(texts) for part in new.split("*"))
