"""Compare weights that were written with what they were to be: bit for bit, or within what rounding takes.

    verify_equal(folder, tensors, on_progress)    # Check("weights", True, "194 of 194 tensors equal …")
    verify_like(folder, plain, on_progress)       # Check("weights", True, "26 tensors quantised, 8.0% …")

Memory holds about one tensor: the comparisons go piece by piece.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.convert.options import Check, Progress
from grpo_cli.convert.outgoing import OutgoingTensor, counted
from grpo_cli.models.classes import load_weights
from grpo_cli.models.tree import flat

NUMBERS_AT_ONCE = 1 << 22
# How far rounding may take a tensor by bits, as a share of its norm: three times what normal numbers lose.
LOSSES = {8: 0.02, 6: 0.08, 5: 0.15, 4: 0.3, 3: 0.55, 2: 0.95}


def verify_equal(folder: Path, tensors: Sequence[OutgoingTensor], on_progress: Progress) -> Check:
    """Whether the files hold the source's numbers, bit for bit where no other format was asked for."""
    places = {name: place for path in weight_files(folder) for name, place in tensor_places(path).items()}
    wrong = []
    for tensor in counted(tensors, "comparing", on_progress):
        place = places.pop(tensor.name, None)
        if place is None or not lies_at(place, tensor):
            wrong.append(tensor.name)
    if wrong or places:
        return Check("weights", False, f"{', '.join([*wrong, *places][:3])} differ from the source")
    rounded = any(tensor.is_rounded for tensor in tensors)
    how = f"rounded to {tensors[0].written.name}" if rounded else "bit for bit"
    return Check("weights", True, f"{len(tensors)} of {len(tensors)} tensors equal the original's, {how}")


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a safetensors file."""

    path: Path
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_places(path: Path) -> dict[str, Place]:
    """Name → place of every tensor, from the file's header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: Place(path, tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def lies_at(place: Place, tensor: OutgoingTensor) -> bool:
    """Whether exactly the numbers that the tensor was to be written with lie there."""
    if place.shape != tensor.shape or place.end - place.begin != tensor.size:
        return False
    with place.path.open("rb") as file:
        file.seek(place.begin)
        return all(file.read(piece.nbytes) == piece.tobytes() for piece in tensor.pieces())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder."""
    return sorted(folder.glob("model*.safetensors"))


def verify_like(folder: Path, source: Path, on_progress: Progress) -> Check:
    """Whether a model's folder holds the numbers of another, in its own format or quantised.

    What is quantised may differ by no more than rounding takes; the rest must be the same number.
    """
    expected = flat(load_weights(source)[0].parameters())
    stored = flat(load_weights(folder)[0].parameters())
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization", {})
    count, total = len(expected), sum(array.nbytes for array in expected.values())
    done, quantised, error, norm = 0, 0, 0.0, 0.0
    for name in list(expected):
        on_progress("comparing", done, total)
        array = expected.pop(name)
        done += array.nbytes
        layer = name.removesuffix(".weight")
        if name in stored and f"{layer}.scales" in stored and stored[name].dtype != array.dtype:
            own = {**settings, **settings.get(layer, {})} if isinstance(settings, Mapping) else {}
            lost, whole = distance(array, stored, layer, own)
            if lost > LOSSES.get(int(own.get("bits", 2)), 0.95) ** 2 * whole:
                return Check("weights", False, f"{name} is {(lost / whole) ** 0.5:.0%} from the original's")
            error, norm, quantised = error + lost, norm + whole, quantised + 1
        elif name not in stored or not same(array, stored.pop(name)):
            return Check("weights", False, f"{name} differs from the source")
        del array
    if stored:
        return Check("weights", False, f"{', '.join(list(stored)[:3])} are not in the source")
    if not quantised:
        return Check("weights", True, f"{count} of {count} tensors equal the original's")
    relative = (error / norm) ** 0.5 if norm else 0.0
    seen = (
        f"{quantised} tensors quantised, {relative:.1%} from the original's (norm); {count - quantised} equal"
    )
    return Check("weights", True, seen)


def distance(
    array: mx.array, stored: dict[str, mx.array], layer: str, settings: Mapping[str, Any]
) -> tuple[float, float]:
    """‖W − Ŵ‖² and ‖W‖² of a quantised layer, which is taken out of `stored`."""
    packed, scales = stored.pop(f"{layer}.weight"), stored.pop(f"{layer}.scales")
    biases = stored.pop(f"{layer}.biases", None)
    mode = settings.get("mode", "affine")
    width = max(1, array.size // max(len(array), 1))
    rows = max(1, NUMBERS_AT_ONCE // width)
    lost = whole = 0.0
    for at in range(0, len(array), rows):
        cut = slice(at, at + rows)
        some = None if biases is None else biases[cut]
        back = mx.dequantize(
            packed[cut], scales[cut], some, settings["group_size"], settings["bits"], mode=mode
        ).astype(mx.float32)
        part = array[cut].astype(mx.float32)
        difference, total = (back - part).square().sum(), part.square().sum()
        mx.eval(difference, total)
        lost, whole = lost + number(difference), whole + number(total)
    return lost, whole


def number(scalar: mx.array) -> float:
    """A scalar's value."""
    value: float = scalar.item()  # type: ignore[assignment]
    return value


def same(array: mx.array, stored: mx.array) -> bool:
    """Whether two arrays hold the same numbers, in the format of the second."""
    return array.shape == stored.shape and bool(mx.array_equal(array.astype(stored.dtype), stored).item())
