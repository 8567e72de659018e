"""tokenizer.pkl with any state in it, and why it is refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from grpo_cli.errors import ModelError
from grpo_cli.models.nanochat_tokenizer import SPECIAL_TOKENS, NanochatTokenizer

REFUSAL = "Failed to load tiktoken tokenizer: "


def write_pickle(folder: Path, state: Any) -> Path:
    """tokenizer.pkl as tiktoken writes it, with any state in it."""

    class Writer(pickle._Pickler):
        """Writes a stand-in under the name tiktoken.core.Encoding."""

        # dill, which comes with datasets, puts a way of its own to write classes into this table.
        dispatch = {**pickle._Pickler.dispatch, type: lambda self, obj: self.save_global(obj)}  # noqa: RUF012

        def save_global(self, obj: Any, name: str | None = None) -> None:
            super().save_global(tiktoken.Encoding if obj is StandIn else obj, name)

    class StandIn:
        def __getstate__(self) -> Any:
            return state

    folder.mkdir(exist_ok=True)
    with (folder / "tokenizer.pkl").open("wb") as file:
        Writer(file, protocol=2).dump(StandIn())
    return folder


def valid_state() -> dict[str, Any]:
    return {
        "name": "rustbpe",
        "pat_str": r"\w+|\W+",
        "mergeable_ranks": {bytes([byte]): byte for byte in range(256)},
        "special_tokens": {name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)},
    }


def refusal(folder: Path) -> str:
    """The message without its beginning and the file's path."""
    with pytest.raises(ModelError) as error:
        NanochatTokenizer.load(folder)
    message = error.value.message
    assert message.startswith(REFUSAL)
    assert error.value.hint
    return message.removeprefix(REFUSAL).removeprefix(str(folder / "tokenizer.pkl")).removeprefix(": ")
