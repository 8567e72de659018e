"""An interrupted and resumed run of wandb offline, read back from its own files; and who is logged in."""

import json
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.trackers.wandb import KEYS, is_logged_in
from tests.support.tracked_runs import STEPS, tracked

BLOCK = 1 << 15  # bytes of a .wandb file, which has the format of LevelDB's logs
FILE_HEAD, HEAD = 7, 7  # bytes of the file's head, and of a fragment's: checksum, length, kind
FULL, LAST = 1, 4  # kinds of fragments that end a record


def records(file: Path) -> list[Any]:
    """The records of a .wandb file, as wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole, found = file.read_bytes(), FILE_HEAD, b"", []
    assert content[:4] == b":W&B"
    while at + HEAD <= len(content):
        if BLOCK - at % BLOCK < HEAD:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (FULL, LAST):
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


def history(file: Path) -> dict[str, list[tuple[int, Any]]]:
    """(step, value) of each name in a .wandb file."""
    found = defaultdict(list)
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                found[name].append((record.history.step.num, json.loads(item.value_json)))
    return found


def test_each_step_once_with_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    rewards, notices = tracked(tmp_path, "wandb", monkeypatch)
    assert len(notices) == 1 and "wandb is not logged in: the run is kept in" in notices[0]
    files = sorted((tmp_path / "run/trackers/wandb").rglob("*.wandb"))
    assert len({file.name for file in files}) == 1 and len(files) == 2  # one id, two parts
    seen = [pair for file in files for pair in history(file)["train/reward"]]
    assert sorted(seen) == [(step, pytest.approx(rewards[step])) for step in STEPS]
    tables = [step for file in files for step, _ in history(file)["completions/_type"]]
    assert sorted(tables) == STEPS
    kinds = [record.WhichOneof("record_type") for file in files for record in records(file)]
    assert kinds.count("exit") == 2 and "output_raw" not in kinds  # nothing of the terminal
    said = [
        item.value_json
        for record in records(files[-1])
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
        if item.key == "verdict"
    ]
    assert said and "accuracy" in said[-1]


def test_who_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in (*KEYS, "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(key, raising=False)
    assert not is_logged_in()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert is_logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not is_logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert is_logged_in()
