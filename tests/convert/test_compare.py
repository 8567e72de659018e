"""verify_equal sees every bit that is not the source's, in every number format, and says where."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.convert import outgoing
from grpo_cli.convert.compare import verify_equal
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.options import no_progress
from grpo_cli.convert.outgoing import OutgoingTensor
from tests.support.damaged_conversions import Arrays, right, wrong

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
