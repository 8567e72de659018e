"""Our reader and writer of .pt files against torch itself.

Left out where torch is missing; `uv run --group torch pytest tests/convert/test_with_torch.py` brings it.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.convert.torch_writer import write_torch_file
from tests.support.pt_reading import everything

torch = pytest.importorskip("torch", reason="needs torch: `uv run --group torch pytest`")

WAYS = {
    "weights only": {"weights_only": True},
    "mapped": {"weights_only": True, "mmap": True},
    "plain": {"weights_only": False},
    "plain, mapped": {"weights_only": False, "mmap": True},
}
Content = dict[str, tuple[str, tuple[int, ...], bytes]]


def of_torch(state: Any) -> Content:
    """Format, shape and bytes of every tensor of a state dict, as `everything` gives those of a file."""
    return {
        name: (
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
            if tensor.numel()
            else b"",
        )
        for name, tensor in state.items()
    }


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random bits, NaNs and infinities among them."""
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    if tensor.numel():  # torch does not view nothing as another format
        highest = 2 if dtype == "bool" else 256
        bits = np.random.default_rng(seed).integers(0, highest, tensor.nbytes, dtype="u1")
        tensor.view(-1).view(torch.uint8).copy_(torch.from_numpy(bits))
    return tensor


def every_format() -> dict[str, Any]:
    return {
        f"{dtype}.{shape}": numbers(dtype, shape) for dtype in DTYPES for shape in ((7, 5), (), (3, 0), (1,))
    }


# --- what torch writes, we read -------------------------------------------------------------------


def check_read(path: Path, state: Any) -> None:
    """The file as torch.save writes it holds what the state dict does, in its order."""
    torch.save(state, path)
    assert everything(path) == of_torch(state)
    assert list(everything(path)) == list(state)


def test_every_format_and_shape_is_read(tmp_path: Path) -> None:
    check_read(tmp_path / "x.pt", every_format())
    check_read(tmp_path / "ordered.pt", OrderedDict(reversed(every_format().items())))


def test_views_are_read(tmp_path: Path) -> None:
    """Strides, offsets, several tensors on one storage, one tensor under two names, an expanded one."""
    whole = numbers("float32", (6, 8))
    check_read(
        tmp_path / "x.pt",
        {
            "whole": whole,
            "transposed": whole.T,
            "rows": whole[2:5],
            "columns": whole[:, 1::3],
            "element": whole[3, 4],
            "again": whole,
            "expanded": whole[0].expand(4, 8),
            "permuted": numbers("bfloat16", (2, 3, 4)).permute(2, 0, 1),
            "none of it": whole[6:],
        },
    )


def test_a_module_is_read(tmp_path: Path) -> None:
    """Its state dict has `_metadata`, and its values may be Parameters."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 3, bias=False), torch.nn.LayerNorm(3), torch.nn.BatchNorm1d(3)
    )
    state = module.state_dict()
    assert state._metadata["0"] == {"version": 1}
    check_read(tmp_path / "state.pt", state)
    check_read(tmp_path / "parameters.pt", OrderedDict(module.named_parameters()))
    check_read(tmp_path / "kept.pt", module.state_dict(keep_vars=True))


def test_the_names_of_a_compiled_module_are_read(tmp_path: Path) -> None:
    compiled = torch.compile(torch.nn.Linear(4, 3))  # compiled when it is called, which it is not
    state = compiled.state_dict()
    assert list(state) == ["_orig_mod.weight", "_orig_mod.bias"]
    check_read(tmp_path / "x.pt", state)


def test_through_a_file_object(tmp_path: Path) -> None:
    with (tmp_path / "x.pt").open("wb") as file:
        torch.save(every_format(), file)
    assert everything(tmp_path / "x.pt") == of_torch(every_format())


# --- what we write, torch reads -------------------------------------------------------------------


def outgoing(state: dict[str, Any]) -> list[OutgoingTensor]:
    def tensor(name: str, dtype: str, shape: tuple[int, ...], content: bytes) -> OutgoingTensor:
        array = np.frombuffer(content, DTYPES[dtype].bits).reshape(shape)
        return OutgoingTensor(name=name, dtype=DTYPES[dtype], shape=shape, read=lambda: array)

    return [tensor(name, *content) for name, content in of_torch(state).items()]


@pytest.mark.parametrize("way", WAYS)
def test_every_format_and_shape_is_written(tmp_path: Path, way: str) -> None:
    state = every_format()
    write_torch_file(tmp_path / "x.pt", outgoing(state))
    loaded = torch.load(tmp_path / "x.pt", **WAYS[way])
    assert type(loaded) is OrderedDict
    assert of_torch(loaded) == of_torch(state)
    assert list(loaded) == list(state)
    assert [tensor.stride() for tensor in loaded.values()] == [tensor.stride() for tensor in state.values()]
    assert {(tensor.device.type, tensor.requires_grad) for tensor in loaded.values()} == {("cpu", False)}


@pytest.mark.parametrize("way", WAYS)
def test_large_records_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """zip64 in every header, as above 4 GB."""
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 1)
    state = every_format()
    write_torch_file(tmp_path / "x.pt", outgoing(state))
    assert of_torch(torch.load(tmp_path / "x.pt", **WAYS[way])) == of_torch(state)


def test_a_file_name_that_is_not_ascii(tmp_path: Path) -> None:
    state = {"tête": numbers("float32", (3,))}
    write_torch_file(tmp_path / "modèle.pt", outgoing(state))
    assert of_torch(torch.load(tmp_path / "modèle.pt", weights_only=True)) == of_torch(state)


def test_mapped_tensors_are_aligned(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "x.pt", outgoing(every_format()))
    loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=True)
    assert {tensor.data_ptr() % 64 for tensor in loaded.values() if tensor.numel()} == {0}


def test_there_and_back_again(tmp_path: Path) -> None:
    """torch → a file → our reader → our writer → torch: into the module that it came from."""
    module = torch.nn.Linear(4, 3)
    torch.save(module.state_dict(), tmp_path / "theirs.pt")
    with TorchFile(tmp_path / "theirs.pt") as file:
        tensors = [
            OutgoingTensor(
                name=name, dtype=info.dtype, shape=info.shape, read=lambda name=name: file.read(name)
            )
            for name, info in file.tensors.items()
        ]
        write_torch_file(tmp_path / "ours.pt", tensors)
    other = torch.nn.Linear(4, 3)
    other.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True), strict=True)
    assert of_torch(other.state_dict()) == of_torch(module.state_dict())
