"""A small nanochat repository of a hub, and the error that a fetch of it ends with."""

import pytest
from huggingface_hub import constants

from grpo_cli.errors import ModelError
from grpo_cli.models.hub import fetch

REPO = "karpathy/nanochat-d32"
LARGE = bytes(range(256)) * 1000  # 256,000 bytes
SMALL = b'{"step": 650}'
FILES = {
    "README.md": b"# d32",
    "meta_000650.json": SMALL,
    "model_000650.pt": LARGE,
    "token/tokenizer.pkl": b"pkl",
}
WANTED = ["model_*.pt", "meta_*.json"]
WANTED_NAMES = ["meta_000650.json", "model_000650.pt"]
SIZE = len(LARGE) + len(SMALL)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(repo: str = REPO, check: bool = False) -> tuple[str, str]:
    """Message and hint of the error that a fetch ends with."""
    with pytest.raises(ModelError) as error:
        fetch(repo, WANTED, check=check)
    return error.value.message, error.value.hint
