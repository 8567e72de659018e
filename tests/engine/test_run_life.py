"""Runs under trouble: values that JSON lacks, a disk gone read-only, rewards that change the folder."""

import datetime
import decimal
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir import log as runlog
from grpo_cli.engine.run_dir.manifest import checkpoints
from grpo_cli.engine.run_dir.run_state import RunState, read_state, write_state
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError
from grpo_cli.models.find import TINY
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.engine.test_resume import SHORT, log_without_times, notices
from tests.engine.test_train import lines, small

TYPED = """
import datetime, decimal

def typed(completions, created, day, price, image, share, **columns):
    assert all(isinstance(value, datetime.datetime) and value.tzinfo for value in created)
    assert all(type(value) is datetime.date for value in day)
    assert all(isinstance(value, decimal.Decimal) for value in price)
    assert all(isinstance(value, bytes) for value in image)
    assert all(value != value for value in share)
    return [(len(text[0]["content"]) + when.day + float(cost)) % 5
            for text, when, cost in zip(completions, created, price)]
"""

MOVES = """
import os

def moves(completions, **columns):
    if os.path.exists("elsewhere"):
        os.chdir("elsewhere")
    return [float(len(text[0]["content"]) % 3) for text in completions]
"""


def typed_rows(file: Path) -> None:
    """A Parquet file with columns that JSON has no values for."""
    rows = [
        {
            "question": f"What is {number} + 1?",
            "answer": str(number + 1),
            "created": datetime.datetime(2026, 1, number + 1, tzinfo=datetime.UTC),
            "day": datetime.date(2026, 1, number + 1),
            "price": decimal.Decimal("1.50") * number,
            "image": b"\x89PNG",
            "share": float("nan"),
        }
        for number in range(6)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def test_rewards_get_the_same_values_after_a_resume_in_the_middle_of_rollouts(tmp_path: Path) -> None:
    typed_rows(tmp_path / "train.parquet")
    (tmp_path / "mine.py").write_text(TYPED)
    settings = {"num_iterations": 2, "save_steps": 1, "max_steps": 4, "keep_checkpoints": 9, "num_epochs": 9}
    settings |= {
        "dataset": str(tmp_path / "train.parquet"),
        "reward_functions": [f"{tmp_path}/mine.py:typed"],
    }
    config = small(tmp_path, **{**SHORT, **settings})
    final = train(config)
    weights, log = (final / "model.safetensors").read_bytes(), log_without_times(config.run_dir)
    assert read_state(config.run_dir / "checkpoint-1")[1]  # rollouts that the next step learns from
    resume(config.run_dir / "checkpoint-1")
    assert (final / "model.safetensors").read_bytes() == weights
    assert log_without_times(config.run_dir) == log


def test_half_a_surrogate_pair_ends_neither_log_nor_checkpoint(tmp_path: Path) -> None:
    text = "half an emoji: \ud83d"
    rollout = Rollout(
        token_ids=[5],
        logprobs=[-0.5],
        entropies=[0.1],
        stop_reason=StopReason.EOS,
        text=text,
        rewards={"a": 1.0},
        reward=float("nan"),
    )
    group = RolloutGroup(Example(messages=[{"role": "user", "content": text}], answer=text), [1], [rollout])
    log = runlog.RunLog(tmp_path)
    log.step({"step": 1, "loss": float("inf"), text: text}, [group], 1)
    log.sync()
    assert lines(tmp_path) == [{"step": 1, "loss": None, text: text}]
    written = (tmp_path / "completions.jsonl").read_bytes()
    assert rb"emoji: \ud83d" in written
    assert json.loads(written)["completion"] == text
    assert json.loads(written)["reward"] is None
    rollout.reward = 1.0
    write_state(tmp_path, RunState(step=1, random_state=[1, 2]), [group])
    ((saved,),) = [read.rollouts for read in read_state(tmp_path)[1]]
    assert saved.token_ids == [5] and saved.text == "half an emoji: ?"


def test_a_step_is_in_both_logs_or_in_none(tmp_path: Path) -> None:
    rollout = Rollout(
        token_ids=[5],
        logprobs=[-0.5],
        entropies=[0.1],
        stop_reason=StopReason.EOS,
        text="",
        rewards={"a": object()},
    )  # type: ignore[dict-item]
    log = runlog.RunLog(tmp_path)
    with pytest.raises(TypeError):
        log.step({"step": 1}, [RolloutGroup(Example(messages=[], answer=""), [1], [rollout])], 1)
    assert log.positions() == {"training_log.jsonl": 0, "completions.jsonl": 0}


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that makes all writes below `tmp_path` fail, as on a disk gone read-only."""

    def refuse(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            is_open = isinstance(path, int)
            shown = Path(f"/proc/self/fd/{path}").readlink() if is_open else os.fspath(path)
            reads = name == "open" and not arguments[0] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if str(shown).startswith(str(tmp_path)) and not reads:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(shown))
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, name, call)

    def turn() -> None:
        for name in ("open", "write", "mkdir", "unlink", "rename", "replace", "rmdir"):
            refuse(name)

    return turn


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
def test_a_disk_that_turns_read_only_in_the_middle_says_so(
    tmp_path: Path, read_only: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == 1:
            read_only()
        if isinstance(event, events.Notice):
            said.append(event.text)

    config = small(tmp_path, **{**SHORT, "save_steps": 1})
    whole = small(tmp_path, run_name="whole", **SHORT)
    train(whole)
    with pytest.raises(
        CheckpointError, match=r"^Failed to save checkpoint: .*Read-only file system.*3 times"
    ):
        train(config, listen)
    assert any(f"the log cannot be written: Read-only file system: {config.run_dir}" in text for text in said)
    monkeypatch.undo()  # the disk is mended
    assert checkpoints(config.run_dir) == []  # the step before it was not due to be saved
    notices(config.run_dir)
    assert log_without_times(config.run_dir) == log_without_times(whole.run_dir)


def test_a_log_that_cannot_be_opened_leaves_nothing_that_blocks_the_next_try(tmp_path: Path) -> None:
    config = small(tmp_path, max_steps=1)
    config.run_dir.mkdir()
    (config.run_dir / "completions.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="Unusable file in the run's folder"):
        train(config)
    assert not (tmp_path / "elsewhere").exists()
    assert train(config).is_dir()


LEAVES = """
import os
calls = 0

def leaves(completions, **columns):
    global calls
    calls += 1
    if calls == 3:
        os.rename("outputs/run", "outputs/moved")
    return [float(len(text[0]["content"]) % 3) for text in completions]
"""


def test_a_folder_that_is_moved_away_is_made_again_and_the_work_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(LEAVES)
    told: list[events.Event] = []
    config = small(Path("outputs"), reward_functions=["mine.py:leaves"], max_steps=4, save_steps=2)
    train(config, told.append)
    said = [event.text for event in told if isinstance(event, events.Notice)]
    assert any(text.startswith("the run's folder outputs/run was moved or deleted") for text in said)
    assert [path.name for path in checkpoints(Path("outputs/moved"))] == ["checkpoint-2"]
    assert [path.name for path in checkpoints(Path("outputs/run"))] == ["checkpoint-4", "final"]
    assert len(lines(Path("outputs/moved"))) == 4
    assert read_state(resume(Path("outputs/run"), ["max_steps=5"]))[0].step == 5


def test_a_reward_that_changes_the_folder_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (tmp_path / "mine.py").write_text(MOVES)
    monkeypatch.chdir(tmp_path)
    settings = {"max_steps": 3, "save_steps": 1, "keep_checkpoints": 9, "model_name": "./model"}
    settings |= {"reward_functions": ["mine.py:moves"], "lora_rank": 2}
    config = small(Path("out"), **{**SHORT, **settings})
    seen: list[events.Event] = []
    assert train(config, seen.append) == tmp_path / "out/run/final"
    assert Path.cwd() == tmp_path / "elsewhere"
    assert list(Path.cwd().iterdir()) == []
    names = ["checkpoint-1", "checkpoint-2", "checkpoint-3", "completions.jsonl", "config.toml", "final"]
    assert sorted(path.name for path in (tmp_path / "out/run").iterdir()) == [*names, "training_log.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert resume(Path("out/run"), ["max_steps=4"]) == tmp_path / "out/run/final"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (finished,) = [event for event in seen if isinstance(event, events.RunFinished)]
    assert finished.final == Path("out/run/final")  # as people see it
