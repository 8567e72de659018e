"""Written .pt files: their bytes, what our own reader finds in them, and what cannot be written."""

import io
import pickle
import struct
import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.convert.torch_writer import pickled, write_torch_file
from tests.support.pt_reading import everything

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"


def outgoing(name: str, array: np.ndarray, dtype: str = "float32", save_as: str = "") -> OutgoingTensor:
    target = DTYPES[save_as] if save_as else None
    return OutgoingTensor(
        name=name, dtype=DTYPES[dtype], shape=array.shape, read=lambda: array, save_as=target
    )


def every_format() -> list[OutgoingTensor]:
    """Twenty-four bytes of each; the bits of bfloat16 and float16 include NaNs and infinities."""
    return [
        outgoing(name, np.frombuffer(bytes(range(232, 256)), "u1").view(dtype.bits).reshape(-1, 1), name)
        for name, dtype in DTYPES.items()
        if name != "bool"
    ] + [outgoing("bool", np.array([True, False, True]), "bool")]


def as_read(tensors: list[OutgoingTensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        tensor.name: (tensor.dtype.name, tensor.shape, np.ascontiguousarray(tensor.read()).tobytes())
        for tensor in tensors
    }


def starts(path: Path) -> dict[str, int]:
    """Where each record's bytes begin, by its local header."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return {
            entry.filename: entry.header_offset
            + 30
            + sum(struct.unpack_from("<HH", content, entry.header_offset + 26))
            for entry in archive.infolist()
        }


# --- what is written ------------------------------------------------------------------------------


def test_every_format_comes_back_bit_equal(tmp_path: Path) -> None:
    tensors = every_format()
    write_torch_file(tmp_path / "x.pt", tensors)
    assert everything(tmp_path / "x.pt") == as_read(tensors)
    assert list(everything(tmp_path / "x.pt")) == [tensor.name for tensor in tensors]


def test_shapes_without_numbers_and_strided_ones(tmp_path: Path) -> None:
    tensors = [
        outgoing("scalar", np.array(3.5, "<f4")),
        outgoing("empty", np.empty((0, 4), "<f4")),
        outgoing("empty too", np.empty((4, 0), "<f4")),
        outgoing("transposed", np.arange(6, dtype="<f4").reshape(2, 3).T),
        outgoing("tête.weight", np.arange(6, dtype="<f4")[::2]),
    ]
    write_torch_file(tmp_path / "x.pt", tensors)
    assert everything(tmp_path / "x.pt") == as_read(tensors)
    write_torch_file(tmp_path / "none.pt", [])
    with zipfile.ZipFile(tmp_path / "none.pt") as archive:
        assert archive.namelist() == ["none/data.pkl", "none/byteorder", "none/version"]


def test_the_records_are_torchs(tmp_path: Path) -> None:
    path = tmp_path / "model_000650.pt"
    write_torch_file(path, every_format())
    keys = range(len(DTYPES))
    names = ["data.pkl", "byteorder", *(f"data/{key}" for key in keys), "version"]
    assert list(starts(path)) == [f"model_000650/{name}" for name in names]
    assert {start % 64 for start in starts(path).values()} == {0}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # compares the checksums
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("model_000650/byteorder") == b"little"
        assert archive.read("model_000650/version") == b"3\n"


def test_a_genuine_file_comes_back(tmp_path: Path) -> None:
    with TorchFile(FIXTURES / "strided_shared.pt") as file:
        tensors = [
            OutgoingTensor(
                name=name, dtype=info.dtype, shape=info.shape, read=lambda name=name: file.view(name)
            )
            for name, info in file.tensors.items()
        ]
        write_torch_file(tmp_path / "x.pt", tensors)
    assert everything(tmp_path / "x.pt") == everything(FIXTURES / "strided_shared.pt")


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    for folder in (tmp_path, tmp_path / "later"):
        write_torch_file(folder / "x.pt", every_format())
    assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "later" / "x.pt").read_bytes()


def test_a_file_name_that_is_not_ascii(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "modèle.pt", [outgoing("w", np.ones(2, "<f4"))])
    assert next(iter(starts(tmp_path / "modèle.pt"))) == "archive/data.pkl"
    assert everything(tmp_path / "modèle.pt") == {"w": ("float32", (2,), np.ones(2, "<f4").tobytes())}


class StandIns(pickle._Unpickler):
    """The standard unpickler, with a record of its arguments in place of each thing that is named."""

    # dill, which comes with datasets, changes the faster one.
    def find_class(self, module: str, name: str) -> Any:
        return lambda *arguments: {} if name == "OrderedDict" else (f"{module}.{name}", *arguments)

    def persistent_load(self, pid: Any) -> Any:
        return (*pid[:1], pid[1](), *pid[2:])  # the storage's class is named but not called


def test_the_index_is_what_torch_calls() -> None:
    tensors = [
        outgoing("w", np.empty((2, 0, 3), "<f4"), save_as="bfloat16"),
        OutgoingTensor(
            name="large", dtype=DTYPES["int8"], shape=(1 << 20, 1 << 15), read=lambda: np.empty(0)
        ),
    ]

    def tensor(kind: str, key: str, count: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Any:
        storage = ("storage", (f"torch.{kind}Storage",), key, "cpu", count)
        return ("torch._utils._rebuild_tensor_v2", storage, 0, shape, stride, False, {})

    assert StandIns(io.BytesIO(pickled(tensors))).load() == {
        "w": tensor("BFloat16", "0", 0, (2, 0, 3), (3, 3, 1)),
        "large": tensor("Char", "1", 1 << 35, (1 << 20, 1 << 15), (1 << 15, 1)),
    }


def test_a_cast_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_cli.convert.outgoing.PIECE", 4)
    write_torch_file(tmp_path / "x.pt", [outgoing("w", np.arange(10, dtype="<f4"), save_as="float16")])
    assert everything(tmp_path / "x.pt") == {"w": ("float16", (10,), np.arange(10, dtype="<f2").tobytes())}


# --- large files ----------------------------------------------------------------------------------


def test_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything above 20 bytes were above 4 GB: the index, the records of 24 bytes, all places."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    write_torch_file(tmp_path / "x.pt", every_format())
    content = (tmp_path / "x.pt").read_bytes()
    assert content.count(b"PK\x06\x06") == 1  # the large end of the directory
    headers = [content[start - 20 :][:4] for name, start in starts(tmp_path / "x.pt").items()]
    assert headers.count(b"\x01\x00\x10\x00") == len(
        DTYPES
    )  # the large sizes of all but the bool and the texts
    assert {start % 64 for start in starts(tmp_path / "x.pt").values()} == {0}
    assert everything(tmp_path / "x.pt") == as_read(every_format())


def test_memory_holds_one_tensor(tmp_path: Path) -> None:
    """An array is gone before the next one is read, also where it is written as it is."""
    alive: list[weakref.ref[np.ndarray]] = []

    def read() -> np.ndarray:
        assert [array for array in alive if array() is not None] == []
        array = np.ones(1 << 10, "<f4")
        alive.append(weakref.ref(array))
        return array

    tensors = [
        OutgoingTensor(name=f"w{number}", dtype=DTYPES["float32"], shape=(1 << 10,), read=read)
        for number in range(3)
    ]
    write_torch_file(tmp_path / "x.pt", tensors)
    assert len(alive) == 3


# --- what cannot be written -----------------------------------------------------------------------


def test_names_and_numbers_that_do_not_fit(tmp_path: Path) -> None:
    one = np.ones(2, "<f4")
    with pytest.raises(ValueError, match="several tensors are named w"):
        write_torch_file(tmp_path / "x.pt", [outgoing("w", one), outgoing("w", one)])
    with pytest.raises(ValueError, match=r"w is float32 \(2,\), not float32 \(3,\)"):
        write_torch_file(
            tmp_path / "x.pt",
            [OutgoingTensor(name="w", dtype=DTYPES["float32"], shape=(3,), read=lambda: one)],
        )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.pt"
    with pytest.raises(ConversionError) as error:
        write_torch_file(path, [outgoing("w", np.ones(2, "<f4"))])
    assert error.value.message == f"Failed to convert model: cannot write {path}: No such file or directory"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("numbers", [2, 1 << 20])
def test_a_full_disk(tmp_path: Path, numbers: int) -> None:
    (tmp_path / "x.pt").symlink_to("/dev/full")
    with pytest.raises(ConversionError) as error:
        write_torch_file(tmp_path / "x.pt", [outgoing("w", np.ones(numbers, "<f4"))])
    assert error.value.message.endswith("x.pt: No space left on device")
