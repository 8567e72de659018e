"""Safetensors files as MLX and the safetensors package read them, and their exact bytes."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.safetensors_writer import write_shards
from grpo_cli.convert.torch_file import TorchFile

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"


def outgoing(name: str, array: np.ndarray, dtype: str = "float32", save_as: str = "") -> OutgoingTensor:
    target = DTYPES[save_as] if save_as else None
    return OutgoingTensor(
        name=name, dtype=DTYPES[dtype], shape=array.shape, read=lambda: array, save_as=target
    )


def test_the_bytes_of_a_file(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [outgoing("w", np.array([[1, 2]], "<f4"))])
    header = b'{"__metadata__":{"format":"mlx"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    assert path == tmp_path / "model.safetensors"
    assert path.read_bytes() == (88).to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_every_format_is_read_by_others(tmp_path: Path) -> None:
    from safetensors import safe_open

    arrays = {
        name: np.frombuffer(bytes(range(24)) if name != "bool" else b"\1\0\0", dtype.bits).reshape(-1, 1)
        for name, dtype in DTYPES.items()
    }
    (path,) = write_shards(tmp_path, [outgoing(name, array, name) for name, array in arrays.items()])
    with safe_open(path, "numpy") as file:
        for name, array in arrays.items():
            if name != "bfloat16":  # numpy has none
                np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)
    del arrays["float64"]  # MLX reads none
    (path,) = write_shards(tmp_path, [outgoing(name, array, name) for name, array in arrays.items()])
    loaded, metadata = mx.load(str(path), return_metadata=True)
    assert metadata == {"format": "mlx"}
    assert loaded["bfloat16"].dtype == mx.bfloat16
    loaded["bfloat16"] = loaded["bfloat16"].view(mx.uint16)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.array(loaded[name]), array, strict=True)


def test_shapes_without_numbers_and_strided_ones(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="<f4").reshape(2, 3)
    tensors = [
        outgoing("scalar", np.array(3.5, "<f4")),
        outgoing("empty", np.empty((0, 4), "<f4")),
        outgoing("transposed", numbers.T),
        outgoing("every second", numbers.reshape(-1)[::2]),
    ]
    (path,) = write_shards(tmp_path, tensors)
    loaded = mx.load(str(path))
    assert loaded["scalar"].item() == 3.5
    assert loaded["empty"].shape == (0, 4)
    assert loaded["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["every second"].tolist() == [0, 2, 4]


def test_a_cast_on_the_way_is_done_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_cli.convert.outgoing.PIECE", 4)
    numbers = np.arange(10, dtype="<f4")
    (path,) = write_shards(tmp_path, [outgoing("w", numbers, save_as="bfloat16")])
    loaded = mx.load(str(path))["w"]
    assert loaded.dtype == mx.bfloat16
    assert loaded.astype(mx.float32).tolist() == list(range(10))


def test_shards_and_their_index(tmp_path: Path) -> None:
    sizes = {"a": 2, "b": 1, "c": 9, "d": 1}  # numbers of four bytes
    tensors = [outgoing(name, np.full(size, size, "<f4")) for name, size in sizes.items()]
    paths = write_shards(tmp_path, tensors, max_shard_bytes=12)
    assert [path.name for path in paths] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [sorted(mx.load(str(path))) for path in paths] == [["a", "b"], ["c"], ["d"]]
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 52, "total_parameters": 13},
        "weight_map": {
            "a": "model-00001-of-00003.safetensors",
            "b": "model-00001-of-00003.safetensors",
            "c": "model-00002-of-00003.safetensors",
            "d": "model-00003-of-00003.safetensors",
        },
    }


def test_tensors_are_read_one_after_the_other(tmp_path: Path) -> None:
    """Each only once the one before is written: the file has grown by then."""
    array = np.ones(1 << 18, "<f4")
    sizes = []

    def read() -> np.ndarray:
        sizes.append((tmp_path / "model.safetensors").stat().st_size)
        return array

    write_shards(
        tmp_path,
        [
            OutgoingTensor(name=f"w{n}", dtype=DTYPES["float32"], shape=array.shape, read=read)
            for n in range(3)
        ],
    )
    assert [size >> 20 for size in sizes] == [0, 1, 2]


def test_from_a_torch_file_to_mlx(tmp_path: Path) -> None:
    with TorchFile(FIXTURES / "archive_root.pt") as file:
        info = file.tensors["lm_head.weight"]
        original = file.read("lm_head.weight")
        tensor = OutgoingTensor(
            name="head", dtype=info.dtype, shape=info.shape, read=lambda: file.view("lm_head.weight")
        )
        (path,) = write_shards(tmp_path, [tensor])
    np.testing.assert_array_equal(np.array(mx.load(str(path))["head"]), original, strict=True)


def test_names_and_numbers_that_do_not_fit(tmp_path: Path) -> None:
    one = np.ones(2, "<f4")
    with pytest.raises(ValueError, match="several tensors are named w"):
        write_shards(tmp_path, [outgoing("w", one), outgoing("w", one)])
    with pytest.raises(ValueError, match=r"w is float32 \(2,\), not float32 \(3,\)"):
        write_shards(
            tmp_path, [OutgoingTensor(name="w", dtype=DTYPES["float32"], shape=(3,), read=lambda: one)]
        )
    with pytest.raises(ValueError, match=r"w is float32 \(2,\), not bfloat16 \(2,\)"):
        write_shards(tmp_path, [outgoing("w", one, "bfloat16")])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as error:
        write_shards(tmp_path / "none", [outgoing("w", np.ones(2, "<f4"))])
    assert error.value.message == (
        f"Failed to convert model: cannot write {tmp_path / 'none'}: No such file or directory"
    )
