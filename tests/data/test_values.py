"""Values of a row: half of a character is refused wherever it is."""

import json
from pathlib import Path

import pytest

from grpo_cli.errors import DataError
from tests.support.datasets import loaded, put


@pytest.mark.parametrize("escape", ["\\ud83d", "\\uD83D", "\\ude00", "x\\uDE00\\ud83d"])
@pytest.mark.parametrize("column", ["question", "answer", "note", "deep", "key"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_half_of_a_character_is_refused_wherever_it_is(
    tmp_path: Path, escape: str, column: str, suffix: str
) -> None:
    row = {"question": "a", "answer": "1", "note": "x"}
    spelled = {"deep": '"deep": [{"x": ["%s"]}]', "key": '"%s": 1'}.get(column, f'"{column}": "%s"') % escape
    text = json.dumps({name: value for name, value in row.items() if name != column})[:-1] + f", {spelled}}}"
    good = json.dumps({**row, "note": "🙂"})  # a whole pair is a character
    content = f"[{good},\n{text}]" if suffix == ".json" else f"{good}\n{text}\n"
    put(tmp_path / f"train{suffix}", content.encode())
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, "train")
    what = "a key" if column == "key" else f"`{column}`"
    place = ("item" if suffix == ".json" else "line") + f" 2 of {tmp_path}/train{suffix}"
    assert caught.value.message.startswith(f"Half of a character: {what} in {place} has '\\u")
    caught.value.message.encode()
