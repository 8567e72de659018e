"""rollouts/step-NNNNNN.parquet: every completion of the newest steps, with its tokens and rewards."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir import rollout_log
from grpo_cli.engine.run_dir.rollout_log import RolloutLog, remove_old, set_aside, step_files
from grpo_cli.engine.train import train
from grpo_cli.types import EnvironmentUse, Example, Rollout, RolloutGroup, StopReason
from tests.support.small_runs import lines, small, weights

QUICK = {"num_generations": 4, "batch_size": 2, "max_new_tokens": 12, "log_completions": 3}


def groups() -> list[RolloutGroup]:
    example = Example(messages=[{"role": "user", "content": "2 + 2 → ?"}], answer="4")
    first = Rollout(
        token_ids=[7, 8], logprobs=[-0.5, -1.25], entropies=[0.0, 0.0], stop_reason=StopReason.EOS,
        text="4 \x1b[31m<script>", rewards={"right": 1.0, "short": None}, reward=1.0, advantage=0.75,
    )  # fmt: skip
    second = Rollout(
        token_ids=[9, 3], logprobs=[-2.0, 0.0], entropies=[0.0, 0.0], loss_mask=[1, 0], text="5",
        stop_reason=StopReason.LENGTH, rewards={"right": None, "short": None}, advantage=-0.75,
        use=EnvironmentUse(turns=2, calls=3),
    )  # fmt: skip
    return [RolloutGroup(example, [1, 2, 3], [first]), RolloutGroup(example, [1, 2, 3], [second])]


def spell(ids: list[int]) -> str:
    return "".join(f"<{number}>" for number in ids)


def rows(folder: Path, step: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(folder / f"step-{step:06}.parquet").to_pylist()
    return found


def test_a_row_for_each_completion(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path, keep=2, spell=spell)
    log.put(40, groups())
    log.close()
    prompt = '[{"role": "user", "content": "2 + 2 → ?"}]'
    assert rows(tmp_path / "rollouts", 40) == [
        {
            "step": 40, "group": 0, "prompt": prompt, "answer": "4", "prompt_ids": [1, 2, 3],
            "completion": "4 \x1b[31m<script>", "token_ids": [7, 8], "tokens": ["<7>", "<8>"],
            "logprobs": [-0.5, -1.25],
            "loss_mask": [1, 1], "rewards": {"right": 1.0, "short": None}, "reward": 1.0, "advantage": 0.75,
            "stop_reason": "eos", "turns": 1, "tool_calls": 0,
        },
        {
            "step": 40, "group": 1, "prompt": prompt, "answer": "4", "prompt_ids": [1, 2, 3],
            "completion": "5", "token_ids": [9, 3], "tokens": ["<9>", "<3>"],
            "logprobs": [-2.0, 0.0], "loss_mask": [1, 0],
            "rewards": {"right": None, "short": None}, "reward": None, "advantage": -0.75,
            "stop_reason": "length", "turns": 2, "tool_calls": 3,
        },
    ]  # fmt: skip
    assert log.failure == ""


def test_a_full_disk_is_told_and_the_next_step_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = rollout_log.write_step

    def refused(folder: Path, step: int, *rest: Any) -> None:
        if step == 1:
            raise OSError(28, "No space left on device")
        write(folder, step, *rest)

    monkeypatch.setattr(rollout_log, "write_step", refused)
    log = RolloutLog(tmp_path, keep=2, spell=spell)
    log.put(1, groups())
    log.put(2, groups())
    log.close()
    assert log.failure.startswith("the completions of step 1 are not kept: OSError: [Errno 28] No space")
    assert [*step_files(tmp_path / "rollouts")] == [2]


def test_the_newest_are_kept_and_other_files_stay(tmp_path: Path) -> None:
    names = ["step-000002.parquet", "step-000010.parquet", "step-1000000.parquet", "step-x.parquet", "notes"]
    for name in names:
        (tmp_path / name).touch()
    remove_old(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_what_does_not_fit_is_removed_from_the_oldest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        (tmp_path / f"step-{step:06}.parquet").write_bytes(b"x" * 100)
    remove_old(tmp_path, 10, most=250)
    assert sorted(step_files(tmp_path)) == [3, 4]
    remove_old(tmp_path, 10, most=50)
    assert sorted(step_files(tmp_path)) == [4]  # the newest stays, however large


def test_a_moved_folder_is_followed_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    log = RolloutLog(tmp_path / "run", keep=9, spell=spell)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir()  # another one takes its name
    log.put(1, groups())
    log.close()
    assert list((tmp_path / "run").iterdir()) == []
    assert [*step_files(tmp_path / "moved/rollouts")] == [1] and log.failure == ""


def test_a_deleted_folder_is_not_made_again_by_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    log = RolloutLog(tmp_path / "run", keep=9, spell=spell)
    (tmp_path / "run").rmdir()
    log.put(1, groups())
    while not log._queue.empty():
        time.sleep(0.01)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # by the saver, with the next checkpoint
    log.write_to(tmp_path / "run")
    log.put(2, groups())
    log.close()
    assert 2 in step_files(tmp_path / "run/rollouts") and log.failure == ""


def test_a_link_leads_no_file_out_of_a_received_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "far").mkdir()
    (tmp_path / "run/rollouts").symlink_to(tmp_path / "far")
    log = RolloutLog(tmp_path / "run", keep=9, spell=spell)
    log.put(1, groups())
    log.close()
    assert list((tmp_path / "far").iterdir()) == []
    assert "step 1 are not kept" in log.failure and "It is a link" in log.failure


def test_a_run_keeps_what_it_learned_from(tmp_path: Path) -> None:
    config = small(tmp_path, **QUICK, max_steps=5, num_iterations=2, keep_rollouts=2)
    train(config)
    folder = config.run_dir / "rollouts"
    assert sorted(step_files(folder)) == [3, 5]  # steps 2 and 4 train on the completions before them again
    found = rows(folder, 5)
    assert len(found) == 8 and [row["group"] for row in found] == [0] * 4 + [1] * 4
    (line,) = [line for line in lines(config.run_dir) if line["step"] == 5]
    rewards = [row["rewards"]["correctness"] for row in found]
    assert sum(rewards) / 8 == pytest.approx(line["reward_mean"])
    text = (config.run_dir / "completions.jsonl").read_text().splitlines()
    logged = [entry for entry in map(json.loads, text) if entry["step"] == 5]
    for entry, row in zip(logged, [found[0], found[4], found[1]], strict=True):
        assert (row["completion"], row["advantage"]) == (entry["completion"], entry["advantage"])
        assert len(row["token_ids"]) == len(row["logprobs"]) == entry["tokens"]
        assert "".join(row["tokens"]).startswith(row["completion"])  # the end token's name follows
        assert json.loads(row["prompt"]) == entry["prompt"] and row["stop_reason"] == entry["stop_reason"]


def test_without_it_the_weights_are_the_same(tmp_path: Path) -> None:
    for keep in (0, 3):
        train(small(tmp_path, **QUICK, keep_rollouts=keep, run_name=f"keep-{keep}"))
    assert not (tmp_path / "keep-0/rollouts").exists()
    assert weights(tmp_path / "keep-0") == weights(tmp_path / "keep-3")


def test_a_restarted_run_sets_them_aside(tmp_path: Path) -> None:
    heard: list[events.Event] = []
    train(small(tmp_path, **QUICK, max_steps=2, keep_rollouts=5), heard.append)
    before = rows(tmp_path / "run/rollouts", 2)
    resume(tmp_path / "run", ["learning_rate=2e-4"], restart=True)
    assert rows(tmp_path / "run/rollouts.aside", 2) == before
    assert rows(tmp_path / "run/rollouts", 1) == rows(tmp_path / "run/rollouts.aside", 1)
    set_aside(tmp_path / "run", 2, tmp_path / "none")
    assert not (tmp_path / "none").exists()
