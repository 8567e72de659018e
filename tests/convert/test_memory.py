"""Peak memory of a conversion: a tensor's, not the model's."""

import sys
from pathlib import Path

import pytest

from tests.bench.convert import peak_of, size_of, write_checkpoint


@pytest.mark.skipif(
    sys.platform != "linux", reason="macOS counts the pages of a mapped file as the process's"
)
def test_memory_holds_a_tensor_and_not_the_model(tmp_path: Path) -> None:
    """Beyond what the program takes by itself, less than a third of the checkpoint; verified, too."""
    size = size_of(0.3, hidden=1024, vocabulary=2048)  # the largest tensors have 17 MB
    assert write_checkpoint(tmp_path, size).stat().st_size > 0.28e9
    idle, _ = peak_of("generate", "--model", "tiny", "--prompt", "1 + 1 =", "--max-tokens", "1")
    peak, _ = peak_of("convert", str(tmp_path), "--output", str(tmp_path / "out"))
    assert peak - idle < 95
