"""The journal of answers: kill -9 in the middle of a step of several turns, torn lines, and hostile ones."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.run_dir import answers as journals
from grpo_cli.engine.run_dir.answers import AnswerJournal
from tests.support.recorded_runs import calls, started
from tests.support.small_runs import log_without_times, weights
from tests.support.waiting import HANG, wait_until

RECORD = {
    "at": 4, "row": 1, "turn": 0, "digest": "0" * 64, "assistant": None, "calls": 1, "failures": 0,
    "seconds": 0.5, "reply": {"messages": [{"role": "user", "content": "no"}], "token_ids": []},
}  # fmt: skip
# Of the sampler: in rounding they depend on when rows leave and enter the batch. No update uses them.
NOT_EXACT = ("tool_seconds", "entropy", "ratio_deviation")


def journal(folder: Path, **changes: Any) -> AnswerJournal:
    return AnswerJournal(folder, **{"scope": "0" * 64, "vocabulary": 100, **changes})


def written(folder: Path) -> list[dict[str, Any]]:
    path = folder / "answers.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def ended(folder: Path, kind: str, command: str) -> None:
    assert started(folder, kind, command).wait(timeout=HANG) == 0


def killed(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Kill a run in its second step, once enough answers are recorded; what is recorded then."""

    def enough() -> bool:
        later = [record for record in written(folder / "run") if record["at"] > 0]
        ends = sum("is_end" in record for record in later)
        return (folder / "held").exists() and len(later) > 4 and (kind == "tools" or ends > 1)

    process = started(folder, kind, "train", "hold")
    wait_until(enough, "answers in the second step", lambda: process.poll() is None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=HANG)
    assert not (folder / "run/checkpoint-2").exists()
    return written(folder / "run")


@pytest.mark.parametrize("kind", ["tools", "game"])
def test_no_recorded_turn_is_asked_twice(kind: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended(whole, kind, "train")
    records = killed(broken, kind)
    before = calls(broken)
    with (broken / "run/answers.jsonl").open("ab") as file:
        file.write(b'{"at": 2, "row"')  # a line that was being written
    ended(broken, kind, "resume")
    assert weights(broken / "run") == weights(whole / "run")
    optimizers = [folder / "run/final/optimizer.safetensors" for folder in (whole, broken)]
    assert optimizers[0].read_bytes() == optimizers[1].read_bytes()
    assert log_of(broken) == log_of(whole)
    assert any(line["grad_norm"] > 0 for line in log_of(whole)[1:])
    completions = [folder / "run/completions.jsonl" for folder in (whole, broken)]
    assert completions[0].read_bytes() == completions[1].read_bytes()
    again = Counter(calls(broken)) - Counter(calls(whole))  # begun twice
    ends = {(record["at"], record["row"]) for record in records if "is_end" in record}
    kept = [r for r in records if "turn" in r and "is_end" not in r]
    if kind == "tools":
        recorded = Counter(made["function"]["arguments"]["text"] for r in kept for made in calls_of(r))
        assert again == Counter(before) - recorded
    else:
        assert again.total() == len(before) - sum((r["at"], r["row"]) in ends for r in kept)
    assert 1 <= again.total() < len([record for record in kept if record["at"] > 0])
    assert not (broken / "run/answers.jsonl").exists()


def log_of(folder: Path) -> list[dict[str, Any]]:
    log = log_without_times(folder / "run")
    return [{key: value for key, value in line.items() if key not in NOT_EXACT} for line in log]


def calls_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    assistant = record["assistant"] or {}
    found: list[dict[str, Any]] = assistant.get("tool_calls", [])
    return found


def test_records_outlive_the_process(tmp_path: Path) -> None:
    journal(tmp_path).add(RECORD)
    journal(tmp_path).add({**RECORD, "row": 2, "reply": None})
    found = journal(tmp_path)
    first, second = found.find(4, 1, 0), found.find(4, 2, 0)
    assert first and first.model_dump(exclude_unset=True) == RECORD
    assert second and second.reply is None
    assert (found.find(4, 1, 1), found.find(4, 1, 0, is_end=True)) == (None, None)
    assert journal(tmp_path, position=5).records == {}


def test_a_later_record_replaces_an_earlier_one(tmp_path: Path) -> None:
    journal(tmp_path).add(RECORD)
    journal(tmp_path).add({**RECORD, "calls": 7})
    assert [record.calls for record in journal(tmp_path).records.values()] == [7]


def test_a_moved_run_takes_its_answers_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    answers = journal(old)
    answers.add(RECORD)
    old.rename(new)
    answers.follow(new)
    answers.add({**RECORD, "row": 2})
    answers.passed(0)
    assert answers.refusal is None
    assert [record["row"] for record in written(new)] == [1, 2]
    assert not old.exists()


def test_a_torn_line_is_left_out_and_harms_no_other(tmp_path: Path) -> None:
    journal(tmp_path).add(RECORD)
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes() + json.dumps({**RECORD, "row": 2}).encode())
    assert [key[1] for key in journal(tmp_path).records] == [1]
    journal(tmp_path).add({**RECORD, "row": 3})
    assert sorted(key[1] for key in journal(tmp_path).records) == [1, 2, 3]  # whole after all


def test_two_checkpoints_later_a_record_is_gone(tmp_path: Path) -> None:
    made = journal(tmp_path)
    for at in (0, 4, 8):
        made.add({**RECORD, "at": at})
    made.passed(4)
    assert [record["at"] for record in written(tmp_path)] == [0, 4, 8]
    made.passed(8)
    assert [record["at"] for record in written(tmp_path)] == [4, 8]
    made.add({**RECORD, "at": 12})
    assert [record["at"] for record in written(tmp_path)] == [4, 8, 12]
    assert sorted(key[0] for key in made.records) == [8, 12]


def test_each_rank_writes_a_file_of_its_own_and_reads_all(tmp_path: Path) -> None:
    journal(tmp_path).add(RECORD)
    journal(tmp_path, rank=1).add({**RECORD, "row": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers-1.jsonl", "answers.jsonl"]
    assert sorted(key[1] for key in journal(tmp_path).records) == [1, 2]
    journal(tmp_path / "elsewhere", rank=2).add(RECORD)  # a machine without the folder
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "reply",
    [
        {"messages": [], "token_ids": [100]},  # no such token
        {"messages": [], "token_ids": [-1]},
        {"messages": [{"role": "user", "content": ["x"]}], "token_ids": []},
        {"messages": [{"role": "user", "content": "x", "images": "y"}], "token_ids": []},  # unknown to us
        {"messages": [{"role": "user", "content": object()}], "token_ids": []},
        {"messages": [{"role": "user", "content": "x" * (1 << 20)}], "token_ids": []},
    ],
)
def test_what_cannot_be_replayed_is_not_recorded(reply: Any, tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.add({**RECORD, "reply": reply})
    assert (made.records, list(tmp_path.iterdir())) == ({}, [])


HOSTILE = [
    b"[" * 100_000, b"null", b"\xff\xfe", b'{"at": 1e400}', b"9" * 5000, b"{" + b" " * (2 << 20) + b"}",
    json.dumps({**RECORD, "reply": {"token_ids": [99, 100]}}).encode(),
    json.dumps({**RECORD, "assistant": {"role": "assistant", "content": "", "tool_calls": [{}]}}).encode(),
    json.dumps({**RECORD, "assistant": {"role": "system", "content": ""}}).encode(),
    json.dumps({**RECORD, "seconds": float("inf")}).encode(),
    json.dumps({**RECORD, "digest": "../../etc"}).encode(),
]  # fmt: skip


def test_hostile_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_bytes(b"\n".join([*HOSTILE, json.dumps(RECORD).encode(), b""]))
    assert list(journal(tmp_path).records) == [(4, 1, 0, False)]


def test_a_pipe_a_folder_and_a_link_are_no_journals(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "answers-1.jsonl")
    (tmp_path / "answers-2.jsonl").mkdir()
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "answers.jsonl").symlink_to(target)
    made = journal(tmp_path)
    made.add(RECORD)
    assert (made.refusal is not None, target.read_text()) == (True, "mine")
    assert made.find(4, 1, 0)  # kept for this process
    made.remove()
    assert target.read_text() == "mine"


def test_a_full_journal_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(json.dumps(RECORD)) + 1
    monkeypatch.setattr(journals, "LARGEST", 2 * size)
    made = journal(tmp_path)
    for row in range(5):
        made.add({**RECORD, "row": row})
    assert [record["row"] for record in written(tmp_path)] == [0, 1]


def test_a_new_run_begins_with_an_empty_journal(tmp_path: Path) -> None:
    journal(tmp_path).add(RECORD)
    journal(tmp_path, rank=1).add(RECORD)
    assert journal(tmp_path, is_new=True).records == {}
    assert list(tmp_path.iterdir()) == []
