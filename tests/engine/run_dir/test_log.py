"""The log files of a run: values that JSON lacks, both files or none, and files that cannot be opened."""

import json
from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir import log as runlog
from grpo_cli.engine.run_dir.run_state import RunState, read_state, write_state
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.support.finished_runs import notices
from tests.support.small_runs import lines, small


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


def test_a_log_that_cannot_be_opened_leaves_nothing_that_blocks_the_next_try(tmp_path: Path) -> None:
    config = small(tmp_path, max_steps=1)
    config.run_dir.mkdir()
    (config.run_dir / "completions.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="Unusable file in the run's folder"):
        train(config)
    assert not (tmp_path / "elsewhere").exists()
    assert train(config).is_dir()


def test_a_log_that_was_switched_off_for_a_while_keeps_its_lines(done: Config) -> None:
    resume(done.run_dir, ["max_steps=5", "log_jsonl=false"])
    resume(done.run_dir, ["max_steps=6", "log_jsonl=true"])
    assert [line["step"] for line in lines(done.run_dir)] == [1, 2, 3, 4, 6]


def test_a_log_that_lost_lines_is_told(done: Config) -> None:
    log = done.run_dir / "training_log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    said, _ = notices(done.run_dir, "max_steps=5")
    assert any("lacks lines of steps before 4: it was cut or replaced" in text for text in said)


def test_the_log_of_the_way_that_is_left_is_kept(done: Config) -> None:
    before = (done.run_dir / "training_log.jsonl").read_bytes()
    resume(done.run_dir / "checkpoint-2", ["max_steps=3"])
    assert (done.run_dir / "training_log.jsonl.aside").read_bytes() == before
    assert [line["step"] for line in lines(done.run_dir)] == [1, 2, 3]
