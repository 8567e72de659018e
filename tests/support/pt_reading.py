"""What the tests of .pt files share: a whole file's content, why a file is refused, a small tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.torch_file import TorchFile
from tests.support.pt_writer import Raw, storage, tensor, write_pt

SIX = np.arange(6, dtype="<f4")


def everything(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Format, shape and bytes of every tensor."""
    with TorchFile(path) as file:
        return {
            key: (info.dtype.name, info.shape, file.read(key).tobytes()) for key, info in file.tensors.items()
        }


def refusal(path: Path) -> str:
    """Why a file is not converted, without the beginning that all messages share."""
    with pytest.raises(ConversionError) as error:
        everything(path)
    assert error.value.message.startswith("Failed to convert model: ")
    return error.value.message.removeprefix("Failed to convert model: ").replace(str(path), "FILE")


def refused_index(folder: Path, index: Any) -> str:
    """Why an index is refused, in a file with one record of 24 bytes."""
    why = refusal(write_pt(folder / "x.pt", index, [SIX.tobytes()]))
    beginning = "FILE was refused, and nothing in it was run: "
    assert why.startswith(beginning)
    return why.removeprefix(beginning)


def six(shape: tuple[int, ...], stride: tuple[int, ...], offset: Any = 0, *more: Any) -> dict[str, Raw]:
    """A state dict of one tensor on a storage of six numbers."""
    return {"w": tensor(storage("Float", "0", 6), shape, stride, offset, *more)}
