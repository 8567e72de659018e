"""Compare written weights with their source: bit for bit, or within the error of rounding.

    verify_equal(folder, tensors, on_progress)    # CheckResult("weights", True, "194 of 194 tensors equal …")
    verify_like(folder, plain, on_progress)       # CheckResult("weights", True, "26 tensors quantized, …")

Comparisons go piece by piece, so memory holds about one tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.convert.options import CheckResult, Progress
from grpo_cli.convert.outgoing import OutgoingTensor, counted
from grpo_cli.models.classes import LOAD_ERRORS, load_weights
from grpo_cli.models.safetensors_header import read_header
from grpo_cli.models.tree import flat, read_json

NUMBERS_AT_ONCE = 1 << 22
# Maximum relative error by bits (fraction of the norm): three times that of normally distributed numbers.
QUANTIZATION_ERRORS = {8: 0.02, 6: 0.08, 5: 0.15, 4: 0.3, 3: 0.55, 2: 0.95}


def verify_equal(folder: Path, tensors: Sequence[OutgoingTensor], on_progress: Progress) -> CheckResult:
    """Check that the files hold the source's numbers, bit for bit unless another format was requested."""
    places = {name: place for path in weight_files(folder) for name, place in tensor_places(path).items()}
    wrong = []
    for tensor in counted(tensors, "comparing", on_progress):
        place = places.pop(tensor.name, None)
        if place is None or not lies_at(place, tensor):
            wrong.append(tensor.name)
    if wrong or places:
        return CheckResult("weights", False, f"{', '.join([*wrong, *places][:3])} differ from the source")
    rounded = any(tensor.is_rounded for tensor in tensors)
    how = f"rounded to {tensors[0].written.name}" if rounded else "bit for bit"
    return CheckResult(
        "weights", True, f"{len(tensors)} of {len(tensors)} tensors equal the original's, {how}"
    )


@dataclass(frozen=True, kw_only=True)
class TensorLocation:
    """Location of a tensor in a safetensors file."""

    path: Path
    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_places(path: Path) -> dict[str, TensorLocation]:
    """Name → location of every tensor, from the file's header. Raises DamagedFile if it is invalid."""
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
    return {
        name: TensorLocation(
            path=path,
            dtype=tensor.dtype,
            shape=tensor.shape,
            begin=begin + tensor.begin,
            end=begin + tensor.end,
        )
        for name, tensor in read_header(path).items()
    }


def lies_at(place: TensorLocation, tensor: OutgoingTensor) -> bool:
    """True if exactly the tensor's numbers are stored at the location."""
    told = (place.dtype, place.shape, place.end - place.begin)
    if told != (tensor.written.safetensors, tensor.shape, tensor.size):
        return False
    with place.path.open("rb") as file:
        file.seek(place.begin)
        return all(file.read(piece.nbytes) == piece.tobytes() for piece in tensor.pieces())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder."""
    return sorted(folder.glob("model*.safetensors"))


def verify_like(folder: Path, source: Path, on_progress: Progress) -> CheckResult:
    """Check that a model folder holds the numbers of another, in its own format or quantized.

    Quantized tensors may differ by the error of rounding; the rest must be equal.
    """
    expected = flat(load_weights(source)[0].parameters())
    try:
        stored = flat(load_weights(folder)[0].parameters())
    except LOAD_ERRORS as refusal:
        return CheckResult("weights", False, str(refusal))
    config = read_json(folder / "config.json")
    total, done, tally = sum(array.nbytes for array in expected.values()), 0, Tally()
    for name in list(expected):
        on_progress("comparing", done, total)
        array = expected.pop(name)
        done += array.nbytes
        problem = compare(name, array, stored, config.get("quantization") or {}, tally)
        if problem:
            broken = not is_finite(array)
            return CheckResult("weights", False, f"{name} of the source holds NaN" if broken else problem)
        del array
    if stored:
        return CheckResult("weights", False, f"{', '.join(list(stored)[:3])} are not in the source")
    return CheckResult("weights", True, tally.told())


@dataclass(kw_only=True)
class Tally:
    """Running totals of a comparison."""

    equal: int = 0  # tensors
    quantized: int = 0
    equal_numbers: int = 0
    quantized_numbers: int = 0
    rounded_to: str = ""
    lost: float = 0.0  # ‖W − Ŵ‖² over the quantised ones
    whole: float = 0.0  # ‖W‖²

    def told(self) -> str:
        """The summary for the table of checks."""
        how = f", rounded to {self.rounded_to}" if self.rounded_to else ""
        if not self.quantized:
            return f"{self.equal} of {self.equal} tensors equal the original's{how}"
        share = (self.lost / self.whole) ** 0.5 if self.whole else 0.0
        told = f"{self.quantized} tensors quantized, {share:.1%} from the original's (norm); "
        told += f"{self.equal} equal{how}"
        if self.quantized_numbers < self.equal_numbers:
            told += "; most weights are not quantized: their row length is not a multiple of `--group-size`"
        return told


def compare(
    name: str, array: mx.array, stored: dict[str, mx.array], settings: Mapping[str, Any], tally: Tally
) -> str:
    """The problem with a stored tensor, which is removed from `stored`; "" if there is none."""
    layer = name.removesuffix(".weight")
    if name in stored and f"{layer}.scales" in stored and stored[name].dtype != array.dtype:
        own = {**settings, **(settings.get(layer) or {})}
        lost, whole = distance(array, stored, layer, own)
        if (
            not lost <= QUANTIZATION_ERRORS.get(int(own.get("bits", 2)), 0.95) ** 2 * whole
        ):  # also refuses NaN
            share = (lost / whole) ** 0.5 if whole else float("inf")
            return f"{name} is {share:.0%} from the original's"
        tally.quantized, tally.quantized_numbers = tally.quantized + 1, tally.quantized_numbers + array.size
        tally.lost, tally.whole = tally.lost + lost, tally.whole + whole
        return ""
    if name not in stored or not same(array, found := stored.pop(name)):
        return f"{name} differs from the source"
    if found.dtype != array.dtype and found.dtype != mx.float32:
        tally.rounded_to = str(found.dtype).removeprefix("mlx.core.")
    tally.equal, tally.equal_numbers = tally.equal + 1, tally.equal_numbers + array.size
    return ""


def is_finite(array: mx.array) -> bool:
    """True if no number of an array is NaN or infinite; checks a part at a time."""
    numbers = array.reshape(-1)
    starts = range(0, array.size, NUMBERS_AT_ONCE)
    return all(mx.isfinite(numbers[at : at + NUMBERS_AT_ONCE]).all().item() for at in starts)


def distance(
    array: mx.array, stored: dict[str, mx.array], layer: str, settings: Mapping[str, Any]
) -> tuple[float, float]:
    """‖W − Ŵ‖² and ‖W‖² of a quantized layer, which is removed from `stored`."""
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
    """A scalar array as a float."""
    value: float = scalar.item()  # type: ignore[assignment]
    return value


def same(array: mx.array, stored: mx.array) -> bool:
    """True if two arrays hold the same numbers, in the format of the second."""
    alike = mx.issubdtype(array.dtype, mx.floating) == mx.issubdtype(stored.dtype, mx.floating)
    if array.shape != stored.shape or not alike:
        return False
    return bool(mx.array_equal(array.astype(stored.dtype), stored).item())
