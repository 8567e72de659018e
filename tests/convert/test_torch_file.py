"""Reading .pt files: genuine ones (nanochat's, MIT licensed), hand-built ones, and what is no checkpoint."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from grpo_cli.convert.torch_file import TorchFile
from tests.support.pt_reading import SIX, everything, refusal, six
from tests.support.pt_writer import call, code, pickled, write_arrays, write_pt, write_records

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"
GENUINE = Path(__file__).parents[2] / "../shared/fixtures/nanochat"
needs_genuine = pytest.mark.skipif(not GENUINE.exists(), reason="needs ../shared/fixtures/nanochat")

LM_HEAD_SUM = "317a2300633bdbafb9b63f6429465d08de9e9078e7629f6d7524ae3a026412b8"  # in tensors.json


# --- genuine files --------------------------------------------------------------------------------


def test_views_of_a_shared_storage() -> None:
    numbers = np.arange(24, dtype="<f4").reshape(4, 6)
    with TorchFile(FIXTURES / "strided_shared.pt") as file:
        assert list(file.tensors) == ["transposed", "slice", "whole", "empty", "scalar"]
        assert file.tensors["transposed"].stride == (1, 6)
        np.testing.assert_array_equal(file.read("transposed"), numbers.T, strict=True)
        np.testing.assert_array_equal(file.read("slice"), numbers[1:3], strict=True)
        np.testing.assert_array_equal(file.read("whole"), numbers, strict=True)
        assert file.read("transposed").flags.c_contiguous
        assert file.read("empty").shape == (0, 4)
        assert file.read("scalar").shape == ()
        assert file.read("scalar") == 3.5


def test_a_parameter_is_its_tensor() -> None:
    assert everything(FIXTURES / "parameter_value.pt") == {
        "w": ("float32", (2, 3), np.ones((2, 3), "<f4").tobytes())
    }


def test_a_file_saved_through_a_file_object() -> None:
    """Its root folder is `archive`, not its own name; the sum is of torch's own bytes."""
    ((key, (dtype, shape, content)),) = everything(FIXTURES / "archive_root.pt").items()
    assert (key, dtype, shape) == ("lm_head.weight", "float32", (1000, 64))
    assert hashlib.sha256(content).hexdigest() == LM_HEAD_SUM


@needs_genuine
@pytest.mark.parametrize(
    "file, reference",
    [
        ("oct2025-small/model_000650.pt", "oct2025-small"),
        ("head-sft-small/model_000059.pt", "head-sft-small"),
        ("variants/cuda_location.pt", "oct2025-small"),
        ("variants/orig_mod_prefix.pt", "oct2025-small"),
    ],
)
def test_every_genuine_tensor_is_bit_equal(file: str, reference: str) -> None:
    recorded = json.loads((GENUINE / reference / "tensors.json").read_text())
    found = {
        key.removeprefix("_orig_mod."): (f"torch.{dtype}", list(shape), hashlib.sha256(content).hexdigest())
        for key, (dtype, shape, content) in everything(GENUINE / file).items()
    }
    assert found == {key: (t["dtype"], t["shape"], t["sha256"]) for key, t in recorded.items()}
    assert list(found) == list(recorded)


# --- hand-built files -----------------------------------------------------------------------------


def test_all_number_formats(tmp_path: Path) -> None:
    arrays: dict[str, tuple[str, np.ndarray]] = {
        "float64": ("Double", np.array([1.5, -2.0], "<f8")),
        "float32": ("Float", np.array([[1.5], [-2.0]], "<f4")),
        "float16": ("Half", np.array([1.5, -2.0], "<f2")),
        "bfloat16": ("BFloat16", np.array([0x3FC0, 0xC000], "<u2")),
        "int64": ("Long", np.array([-(2**63), 5], "<i8")),
        "int32": ("Int", np.array([-(2**31), 5], "<i4")),
        "int16": ("Short", np.array([-(2**15), 5], "<i2")),
        "int8": ("Char", np.array([-128, 5], "i1")),
        "uint8": ("Byte", np.array([255, 5], "u1")),
        "bool": ("Bool", np.array([True, False])),
    }
    expected = {key: (key, array.shape, array.tobytes()) for key, (_, array) in arrays.items()}
    assert everything(write_arrays(tmp_path / "little.pt", arrays)) == expected
    assert everything(write_arrays(tmp_path / "old.pt", arrays, byteorder="")) == expected
    swapped = {key: (kind, array.byteswap()) for key, (kind, array) in arrays.items()}
    assert everything(write_arrays(tmp_path / "big.pt", swapped, byteorder="big")) == expected


def test_an_expanded_tensor_repeats_its_numbers(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((2, 3), (0, 2), 1), [SIX.tobytes()])
    with TorchFile(path) as file:
        assert file.read("w").tolist() == [[1, 3, 5], [1, 3, 5]]


def test_an_ordered_dict_with_metadata(tmp_path: Path) -> None:
    index = b"\x80\x02" + call("collections.OrderedDict").code + b"(" + code("w") + six((6,), (1,))["w"].code
    metadata = code({"_metadata": {"": {"version": 1}}})
    path = write_pt(tmp_path / "x.pt", index + b"u" + metadata + b"b.", [SIX.tobytes()])
    assert everything(path) == {"w": ("float32", (6,), SIX.tobytes())}


def test_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 16)  # as if the file were larger than 4 GB
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes()])
    assert b"PK\x06\x06" in path.read_bytes()
    assert everything(path) == {"w": ("float32", (6,), SIX.tobytes())}


def test_an_array_outlives_its_file() -> None:
    with TorchFile(FIXTURES / "strided_shared.pt") as file:
        view, copy = file.view("whole"), file.read("whole")
    assert view.sum() == copy.sum() == 276
    assert not view.flags.writeable
    copy += 1  # an array of its own


def test_a_large_tensor_is_copied_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = everything(FIXTURES / "strided_shared.pt")
    monkeypatch.setattr("grpo_cli.convert.torch_file.CHUNK", 50)  # bytes: one or two rows of 16 or 24
    assert everything(FIXTURES / "strided_shared.pt") == whole


# --- files that are no checkpoint -----------------------------------------------------------------


def test_the_format_before_1_6(tmp_path: Path) -> None:
    path = shutil.copyfile(FIXTURES / "legacy_nonzip.pt", tmp_path / "x.pt")
    assert refusal(path) == "FILE was saved in the format of PyTorch before 1.6"


def test_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x.pt") == "FILE does not exist"
    assert refusal(tmp_path) == "FILE is a folder, not a .pt file"


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "FILE is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "FILE is only a Git LFS pointer to the file"),
        (b"<html>", "FILE is not a PyTorch checkpoint (it does not begin like a zip file)"),
        (b"PK\x03\x04", "FILE is cut off or damaged (its zip directory cannot be read)"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert refusal(tmp_path / "x.pt") == reason


def test_a_file_cut_off(tmp_path: Path) -> None:
    whole = (FIXTURES / "strided_shared.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[:-30])
    assert refusal(tmp_path / "x.pt") == "FILE is cut off or damaged (its zip directory cannot be read)"


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = write_records(tmp_path / "x.pt", {"readme.txt": b"hello"})
    assert refusal(path) == "FILE is a zip file but not a PyTorch checkpoint (it needs one data.pkl)"


def test_a_compressed_record(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({}))
    assert refusal(tmp_path / "x.pt") == (
        "FILE is damaged: its record archive/data.pkl is compressed, which torch never does"
    )


def test_changed_numbers(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes()])
    content = path.read_bytes()
    path.write_bytes(content.replace(SIX.tobytes(), SIX[::-1].tobytes()))
    was, now = zlib.crc32(SIX.tobytes()), zlib.crc32(SIX[::-1].tobytes())
    assert refusal(path) == (
        f"FILE is damaged: its record archive/data/0 does not match its checksum ({now:08x}, not {was:08x})"
    )


def test_a_record_that_lies_elsewhere(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes()])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"archive/data/0", b"archive/data/7", 1))  # in its local header only
    assert refusal(path) == ("FILE is damaged: its record archive/data/0 is not where the zip directory says")


def test_a_record_past_the_end_of_the_file(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes()])
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    for at in (entry + 20, entry + 24):  # the compressed and the real size
        content[at : at + 4] = (1 << 20).to_bytes(4, "little")
    path.write_bytes(content)
    assert refusal(path) == "FILE is damaged: its record archive/data.pkl lies past the end of the file"


def test_a_tensor_past_the_end_of_its_record(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes()[:20]])
    assert refusal(path) == (
        "FILE is damaged: the tensor w goes past the end of its record data/0 (byte 24 of 20)"
    )


def test_a_record_larger_than_its_storage(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes() + b"\0"])
    assert refusal(path) == "FILE is damaged: its record data/0 has 25 bytes, not 24"


def test_a_missing_record(tmp_path: Path) -> None:
    assert refusal(write_pt(tmp_path / "x.pt", six((6,), (1,)))) == (
        "FILE lacks the record data/0 of the tensor w"
    )


def test_an_unknown_byte_order(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "x.pt", six((6,), (1,)), [SIX.tobytes()], byteorder="middle")
    assert refusal(path) == "FILE has the unknown byte order middle"


# --- memory ---------------------------------------------------------------------------------------

CONVERT = """
import sys
from pathlib import Path
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.safetensors_writer import write_shards
from grpo_cli.convert.torch_file import TorchFile

def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

read = getattr(TorchFile, sys.argv[3])
before = peak_mb()
with TorchFile(Path(sys.argv[1])) as file:
    tensors = [
        OutgoingTensor(
            name=name, dtype=info.dtype, shape=info.shape,
            read=lambda name=name: read(file, name), save_as=DTYPES["bfloat16"],
        )
        for name, info in file.tensors.items()
    ]
    write_shards(Path(sys.argv[2]), tensors)
print(peak_mb() - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's count of a process's own peak"
)
@pytest.mark.parametrize("way", ["view", "read"])
def test_a_large_file_takes_the_memory_of_one_tensor(tmp_path: Path, way: str) -> None:
    """Not getrusage: a child's ru_maxrss begins at its parent's."""
    tensor_mb, count = 48, 3
    numbers = np.full((tensor_mb, 1 << 18), 1.5, "<f4")
    path = write_arrays(tmp_path / "x.pt", {f"w{n}": ("Float", numbers) for n in range(count)})
    assert path.stat().st_size > count * tensor_mb << 20
    command = [sys.executable, "-c", CONVERT, str(path), str(tmp_path), way]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 1.5 * tensor_mb  # a chunk of 16 MB of the file beside it
    written = (tmp_path / "model.safetensors").read_bytes()
    assert len(written) > count * tensor_mb << 19
    assert written.endswith(b"\xc0\x3f" * 1000)  # 1.5 in bfloat16
    for file in tmp_path.iterdir():
        file.unlink()
