"""verify_equal and verify_like: every bit and every damage is seen, in every number format."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.convert import compare, outgoing
from grpo_cli.convert.compare import verify_equal, verify_like
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.options import Options, no_progress
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.through_mlx_lm import convert_folder
from tests.support.damaged_conversions import (
    Arrays,
    configure,
    converted_model,
    damaged,
    right,
    stored,
    wrong,
)

FORMATS = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


def numbers(dtype: str) -> Arrays:
    """Two tensors of one format."""
    draw = np.random.default_rng(0).normal(size=18).astype("<f4")
    return {
        "a": mx.array(draw[:12].reshape(3, 4)).astype(FORMATS[dtype]),
        "b": mx.array(draw[12:]).astype(FORMATS[dtype]),
    }


def outgoing_of(arrays: Arrays, dtype: str, written: str) -> list[OutgoingTensor]:
    """Tensors as a conversion hands them out: bfloat16 as its bits."""

    def tensor(name: str, array: mx.array) -> OutgoingTensor:
        values = np.array(array.view(mx.uint16) if dtype == "bfloat16" else array)
        return OutgoingTensor(
            name=name, dtype=DTYPES[dtype], shape=array.shape, read=lambda: values, save_as=DTYPES[written]
        )

    return [tensor(*item) for item in arrays.items()]


def folder_of(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


HOW = [
    ("float32", "float32", "bit for bit"),
    ("float32", "bfloat16", "rounded to bfloat16"),
    ("float32", "float16", "rounded to float16"),
    ("bfloat16", "bfloat16", "bit for bit"),
    ("bfloat16", "float32", "bit for bit"),
    ("bfloat16", "float16", "rounded to float16"),
    ("float16", "float16", "bit for bit"),
    ("float16", "float32", "bit for bit"),
    ("float16", "bfloat16", "rounded to bfloat16"),
]


@pytest.mark.parametrize(("dtype", "written", "how"), HOW)
def test_equal_numbers(dtype: str, written: str, how: str, tmp_path: Path) -> None:
    source = numbers(dtype)
    folder_of(tmp_path, {name: array.astype(FORMATS[written]) for name, array in source.items()})
    check = verify_equal(tmp_path, outgoing_of(source, dtype, written), no_progress)
    assert check == right(f"2 of 2 tensors equal the original's, {how}")


@pytest.mark.parametrize(("dtype", "written"), [formats[:2] for formats in HOW])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_one_bit_that_is_another(dtype: str, written: str, place: int, tmp_path: Path) -> None:
    source = numbers(dtype)
    arrays = {name: array.astype(FORMATS[written]) for name, array in source.items()}
    bits = arrays["a"].reshape(-1).view(mx.uint32 if written == "float32" else mx.uint16)
    bits[place] = bits[place] ^ 1
    arrays["a"] = bits.view(FORMATS[written]).reshape(3, 4)
    check = verify_equal(folder_of(tmp_path, arrays), outgoing_of(source, dtype, written), no_progress)
    assert check == wrong("a differ from the source")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda arrays: arrays.pop("b"), "b differ from the source"),
        (lambda arrays: arrays.update(extra=mx.zeros(1)), "extra differ from the source"),
        (lambda arrays: arrays.update(a=arrays["a"].reshape(4, 3)), "a differ from the source"),
        (lambda arrays: arrays.update(a=arrays["a"][:2]), "a differ from the source"),
        (lambda arrays: arrays.update(a=arrays["a"].astype(mx.float16)), "a differ from the source"),
        (lambda arrays: arrays.update(b=-arrays["b"], a=arrays["a"] * 0), "a, b differ from the source"),
        (
            lambda arrays: arrays.update(a=mx.zeros(1), b=mx.zeros(1), c=mx.zeros(1), d=mx.zeros(1)),
            "a, b, c differ from the source",
        ),
    ],
    ids=["missing", "left over", "other shape", "fewer rows", "other format", "both", "many"],
)
def test_what_differs_is_named(change: Callable[[Arrays], object], seen: str, tmp_path: Path) -> None:
    source = numbers("float32")
    arrays = dict(source)
    change(arrays)
    tensors = outgoing_of(source, "float32", "float32")
    assert verify_equal(folder_of(tmp_path, arrays), tensors, no_progress) == wrong(seen)


def test_every_file_and_every_piece_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "PIECE", 5)
    source = numbers("float32")
    tensors = outgoing_of(source, "float32", "float32")
    mx.save_safetensors(str(tmp_path / "model-1.safetensors"), {"b": source["b"]}, {"format": "mlx"})
    mx.save_safetensors(str(tmp_path / "model-2.safetensors"), {"a": source["a"]})
    told: list[tuple[str, int, int]] = []
    check = verify_equal(tmp_path, tensors, lambda *step: told.append(step))
    assert check == right("2 of 2 tensors equal the original's, bit for bit")
    assert told == [("comparing", 0, 72), ("comparing", 48, 72)]
    source["a"][2, 3] = 0.25
    mx.save_safetensors(str(tmp_path / "model-2.safetensors"), {"a": source["a"]})
    assert verify_equal(tmp_path, tensors, no_progress) == wrong("a differ from the source")


def test_the_same_bits_as_another_format_are_other_numbers(tmp_path: Path) -> None:
    source = numbers("bfloat16")
    folder_of(tmp_path, {name: array.view(mx.float16) for name, array in source.items()})
    check = verify_equal(tmp_path, outgoing_of(source, "bfloat16", "bfloat16"), no_progress)
    assert check == wrong("a, b differ from the source")


LAMBDAS = ("resid_lambdas", "x0_lambdas")
ZEROS = mx.zeros((32, 32))


@pytest.fixture(scope="module")
def january(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted_model(tmp_path_factory.mktemp("like"), "january")


@pytest.fixture(scope="module")
def october(january: Path) -> Path:
    """The same numbers under the same names, without the lambdas."""
    folder = january.parent / "october"
    damaged(january, folder, lambda arrays: [arrays.pop(name) for name in LAMBDAS])
    configure(folder, model_type="nanochat", model_file=None)
    return folder


@pytest.fixture(scope="module")
def quantized(january: Path) -> dict[int, Path]:
    """January's model by bits."""
    return {bits: quantise(january, january.parent / f"bits{bits}", bits) for bits in LOST}


def quantise(model: Path, folder: Path, bits: int) -> Path:
    convert_folder(model, folder, Options(quantize=True, bits=bits, group_size=32))
    return folder


# What rounding takes from January's random weights, and from normal numbers in groups of 32, 64 and 128.
LOST = {2: "36.1%", 3: "17.1%", 4: "8.1%", 5: "3.9%", 6: "1.9%", 8: "0.5%"}
BOUNDS = {2: 0.95, 3: 0.55, 4: 0.3, 5: 0.15, 6: 0.08, 8: 0.02}
OF_NORMAL_NUMBERS = {
    2: (0.362, 0.395, 0.425),
    3: (0.171, 0.190, 0.207),
    4: (0.081, 0.091, 0.100),
    5: (0.0394, 0.0443, 0.0488),
    6: (0.0193, 0.0217, 0.0239),
    8: (0.00477, 0.00536, 0.00592),
}


def test_an_unquantised_model_like_another(january: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check = verify_like(january, january, lambda *step: told.append(step))
    assert check == right("22 of 22 tensors equal the original's")
    size = 4 * (97_792 + 6)
    assert len(told) == 22
    assert {(stage, total) for stage, _, total in told} == {("comparing", size)}
    assert told[0][1] == 0 < told[1][1] < told[-1][1] < size
    half = damaged(january, tmp_path / "half", lambda arrays: arrays.update(rounded(arrays)))
    told = "22 of 22 tensors equal the original's, rounded to bfloat16"
    assert verify_like(half, january, no_progress) == right(told)


def rounded(arrays: Arrays) -> Arrays:
    return {name: array.astype(mx.bfloat16) for name, array in arrays.items()}


@pytest.mark.parametrize("name", ["resid_lambdas", "transformer.h.1.attn.c_k.weight", "lm_head.weight"])
def test_one_tensor_that_is_another(january: Path, name: str, tmp_path: Path) -> None:
    bad = damaged(january, tmp_path / "bad", lambda arrays: arrays.update({name: arrays[name] * 1.0001}))
    assert verify_like(bad, january, no_progress) == wrong(f"{name} differs from the source")


def test_weights_that_are_all_one(january: Path, tmp_path: Path) -> None:
    bad = damaged(
        january, tmp_path / "bad", lambda arrays: arrays.update({n: a * 0 + 1 for n, a in arrays.items()})
    )
    check = verify_like(bad, january, no_progress)
    assert check == wrong("transformer.wte.weight differs from the source")


def test_missing_and_left_over_tensors(
    january: Path, october: Path, quantized: dict[int, Path], tmp_path: Path
) -> None:
    assert verify_like(october, october, no_progress) == right("20 of 20 tensors equal the original's")
    for small in (october, quantise(october, tmp_path / "october", 4)):
        check = verify_like(small, january, no_progress)
        assert check.seen in [f"{name} differs from the source" for name in LAMBDAS]
        assert not check.passed
    for large in (january, quantized[4]):
        check = verify_like(large, october, no_progress)
        assert check == wrong("resid_lambdas, x0_lambdas are not in the source")


@pytest.mark.parametrize("bits", LOST)
def test_a_quantised_model_like_its_source(january: Path, quantized: dict[int, Path], bits: int) -> None:
    check = verify_like(quantized[bits], january, no_progress)
    assert check == right(f"20 tensors quantized, {LOST[bits]} from the original's (norm); 2 equal")


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("bits", LOST)
def test_the_bound_is_some_times_what_normal_numbers_lose(
    bits: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = mx.array(np.random.default_rng(bits).normal(size=(256, 256)), mx.float32)
    packed, scales, biases = mx.quantize(weight, size, bits)
    told = []
    for at_once in (1 << 22, 1000):  # all rows, and three at a time
        monkeypatch.setattr(compare, "NUMBERS_AT_ONCE", at_once)
        parts = {"w.weight": packed, "w.scales": scales, "w.biases": biases, "other": weight}
        lost, whole = compare.distance(weight, parts, "w", {"group_size": size, "bits": bits})
        assert list(parts) == ["other"]
        assert whole == pytest.approx(256 * 256, rel=0.02)
        told.append((lost / whole) ** 0.5)
    expected = OF_NORMAL_NUMBERS[bits][[32, 64, 128].index(size)]
    assert told == pytest.approx([expected, expected], rel=0.02)
    assert 2 < BOUNDS[bits] / expected < 5


@pytest.mark.parametrize("bits", LOST)
def test_scales_that_are_wrong(january: Path, quantized: dict[int, Path], bits: int, tmp_path: Path) -> None:
    layer = "transformer.h.1.mlp.c_fc"

    def change(arrays: Arrays) -> None:
        arrays[f"{layer}.scales"] = arrays[f"{layer}.scales"] * -3

    bad = damaged(quantized[bits], tmp_path / "bad", change)
    check = verify_like(bad, january, no_progress)
    begin, _, rest = check.seen.partition("% from ")
    assert rest == "the original's"
    name, _, percent = begin.partition(" is ")
    assert name == f"{layer}.weight"
    assert 300 < int(percent) < 1500
    assert not check.passed


@pytest.mark.parametrize("bits", LOST)
@pytest.mark.parametrize("share", [0.96, 1.04])
def test_the_bound_is_where_it_is_said_to_be(
    january: Path, quantized: dict[int, Path], bits: int, share: float, tmp_path: Path
) -> None:
    """All numbers of a layer are moved by as much as makes up that share of the bound."""
    name, bound = "transformer.h.1.mlp.c_proj", share * BOUNDS[bits]
    weight = stored(january)[f"{name}.weight"]
    lost, whole = compare.distance(weight, stored(quantized[bits]), name, {"group_size": 32, "bits": bits})
    step = ((bound**2 * whole - lost) / weight.size) ** 0.5

    def change(arrays: Arrays) -> None:
        arrays[f"{name}.biases"] = arrays[f"{name}.biases"] + step

    check = verify_like(damaged(quantized[bits], tmp_path / "moved", change), january, no_progress)
    assert check.passed == (share < 1)
    if not check.passed:
        assert check == wrong(f"{name}.weight is {bound:.0%} from the original's")


def test_an_unquantised_tensor_of_a_quantised_model(
    january: Path, quantized: dict[int, Path], tmp_path: Path
) -> None:
    bad = damaged(quantized[4], tmp_path / "bad", lambda arrays: arrays.update(x0_lambdas=mx.ones(3)))
    assert verify_like(bad, january, no_progress) == wrong("x0_lambdas differs from the source")


@pytest.mark.parametrize("name", ["lm_head.scales", "x0_lambdas"])
def test_scales_that_are_nan_and_numbers_that_are_whole(
    january: Path, quantized: dict[int, Path], name: str, tmp_path: Path
) -> None:
    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name] * mx.nan if name.endswith("scales") else arrays[name].astype(mx.int32)

    bad = damaged(quantized[4], tmp_path / "bad", change)
    assert not verify_like(bad, january, no_progress).passed


def test_a_layer_of_zeros_that_is_damaged(january: Path, tmp_path: Path) -> None:
    """nanochat's own layers begin as zeros."""
    name = "transformer.h.0.attn.c_proj"
    source = damaged(january, tmp_path / "zeros", lambda arrays: arrays.update({f"{name}.weight": ZEROS}))
    small = quantise(source, tmp_path / "small", 4)
    assert verify_like(small, source, no_progress).passed
    bad = damaged(small, tmp_path / "bad", lambda arrays: arrays.update({f"{name}.biases": ZEROS[:, :1] + 1}))
    assert not verify_like(bad, source, no_progress).passed


def test_a_layer_with_bits_of_its_own(january: Path, quantized: dict[int, Path], tmp_path: Path) -> None:
    """Its bound is that of its own bits, and its settings are what its numbers are read with."""
    fine = {n: a for n, a in stored(quantized[8]).items() if n.startswith("lm_head.")}
    mixed = damaged(quantized[4], tmp_path / "mixed", lambda arrays: arrays.update(fine))
    settings = json.loads((mixed / "config.json").read_text())["quantization"]
    configure(mixed, quantization={**settings, "lm_head": {"group_size": 32, "bits": 8}})
    check = verify_like(mixed, january, no_progress)
    assert check == right("20 tensors quantized, 6.6% from the original's (norm); 2 equal")
