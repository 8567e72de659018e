"""A run that was interrupted comes out as one that was not: byte for byte, on a CPU."""

import hashlib
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.resume import as_before, record_interruption, resume
from grpo_cli.engine.rollout.prompt_order import DataOrder
from grpo_cli.engine.run_dir.incidents import Incident, Incidents, read_incidents
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError, ConfigError
from tests.support.finished_runs import notices
from tests.support.interruptions import crash
from tests.support.one_step_runs import QUICK
from tests.support.resumed_runs import check_resumed
from tests.support.small_runs import SHORT, lines, log_without_times, small, weights

# One of every kind of state; `python -m tests.bench.resumed` tries all variants.
TRIED = (
    "full", "dora and kl", "rewards in processes", "several updates by sequence", "half precision",
    "quantized rollouts of adapters", "muon", "evaluation", "a reference that moves between updates",
    "adaptive entropy",
)  # fmt: skip


@pytest.mark.parametrize("variant", TRIED)
def test_interrupted_and_resumed_is_uninterrupted(variant: str, tmp_path: Path) -> None:
    check_resumed(variant, tmp_path)


def test_a_complete_run_says_so_and_goes_on_when_it_is_made_longer(done: Config) -> None:
    said, final = notices(done.run_dir)
    assert said[0] == f"resuming from {done.run_dir / 'final'}"
    assert f"{done.run_dir} is complete, after 4 steps" in said[1]
    resume(done.run_dir, ["max_steps=6"])
    assert [line["step"] for line in lines(done.run_dir)] == [1, 2, 3, 4, 5, 6]
    assert read_state(final)[0].step == 6
    assert "max_steps = 6" in (done.run_dir / "config.toml").read_text()


def test_a_longer_run_is_the_same_as_one_that_was_planned_so(tmp_path: Path) -> None:
    """With a constant learning rate, whose schedule does not depend on the length."""
    settings = {**SHORT, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    planned = small(tmp_path, run_name="planned", **settings)
    train(planned)
    grown = small(tmp_path, run_name="grown", **{**settings, "max_steps": 3})
    train(grown)
    resume(grown.run_dir, ["max_steps=6"])
    assert weights(planned.run_dir) == weights(grown.run_dir)


def test_from_a_named_checkpoint_the_later_ones_are_kept_under_another_name(done: Config) -> None:
    said, _ = notices(done.run_dir / "checkpoint-2")
    assert [line["step"] for line in lines(done.run_dir)] == [1, 2, 3, 4]
    names = sorted(path.name for path in done.run_dir.iterdir() if path.is_dir())
    assert names == [
        "checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-3.aside", "checkpoint-4",
        "checkpoint-4.aside", "final", "final.aside",
    ]  # fmt: skip
    assert any(text.startswith("checkpoint-3 is kept as checkpoint-3.aside") for text in said)
    for name in ("checkpoint-3", "checkpoint-4", "final"):  # the same way again gives the same
        a, b = (done.run_dir / folder / "model.safetensors" for folder in (name, f"{name}.aside"))
        assert a.read_bytes() == b.read_bytes()


def test_no_checkpoint_yet_begins_again(tmp_path: Path) -> None:
    config = small(tmp_path, **SHORT)
    crash(config, 2)
    assert [line["step"] for line in lines(config.run_dir)] == [1, 2]
    said, _ = notices(config.run_dir)
    assert said == [f"{config.run_dir} holds no checkpoint yet: the run starts over"]
    whole = small(tmp_path, run_name="whole", **SHORT)
    train(whole)
    assert log_without_times(config.run_dir) == log_without_times(whole.run_dir)
    assert weights(config.run_dir) == weights(whole.run_dir)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "seed=5",
            "seed cannot change when a run is resumed: the prompts and their order depend on it (seed = 0)",
        ),
        ("lora_type=dora", "lora_type cannot change when a run is resumed: the saved weights"),
        ("use_rslora=true", "use_rslora cannot change when a run is resumed: the saved weights"),
        ("lora_rank=4", "lora_rank cannot change when a run is resumed: the saved weights"),
        (
            "run_name=other",
            "run_name cannot change when a run is resumed: a run is resumed in its own folder",
        ),
        (
            "chat_template_kwargs.enable_thinking=false",
            "chat_template_kwargs cannot change when a run is resumed: the prompts and their order depend on "
            "it (chat_template_kwargs = {})",
        ),
        ("num_iterations=2", "num_iterations cannot change"),
        ("batch_size=1", "a step has 2 prompts, not 1"),
    ],
)
def test_what_cannot_change_is_refused(done: Config, change: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        resume(done.run_dir, ["max_steps=6", change])
    assert words in error.value.message
    assert error.value.hint
    assert "max_steps = 4" in (done.run_dir / "config.toml").read_text()


def test_what_can_change_is_changed(done: Config) -> None:
    resume(
        done.run_dir,
        [
            "max_steps=6",
            "save_steps=5",
            "learning_rate=1e-3",
            "batch_size=1",
            "gradient_accumulation_steps=2",
        ],
    )
    assert lines(done.run_dir)[-1]["lr"] > 1e-5
    assert (done.run_dir / "checkpoint-5").exists()


def test_other_training_data_is_refused(tmp_path: Path) -> None:
    rows = ['{"question": "1 + 1?", "answer": "2"}\n', '{"question": "2 + 2?", "answer": "4"}\n']
    (tmp_path / "train.jsonl").write_text("".join(rows))
    config = small(tmp_path / "out", **{**SHORT, "dataset": str(tmp_path / "train.jsonl"), "max_steps": 2})
    train(config)
    (tmp_path / "train.jsonl").write_text("".join(reversed(rows)))
    with pytest.raises(CheckpointError, match="The training prompts differ from those"):
        resume(config.run_dir, ["max_steps=3"])


def test_a_second_kill_counts_the_time_since_the_first(tmp_path: Path) -> None:
    """Without a checkpoint between them."""
    (tmp_path / "config.toml").touch()
    os.utime(tmp_path / "config.toml", (time.time() - 900,) * 2)
    first = datetime.fromtimestamp(time.time() - 300, UTC).isoformat()
    Incidents(lambda: tmp_path).record(Incident(kind="killed", step=0, seconds=600.0, time=first))
    start: Any = SimpleNamespace(run_dir=tmp_path, checkpoint=None, lock=SimpleNamespace(was_killed=True))
    run: Any = SimpleNamespace(state=SimpleNamespace(step=0))
    seen: list[Any] = []
    record_interruption(start, run, seen.append)
    assert [one.seconds for one in read_incidents(tmp_path)] == [600.0, pytest.approx(300.0, abs=30)]
    assert seen[0].text.startswith("2 interruptions: killed ×2; 15 min")


def test_what_a_killed_process_leaves_is_removed(done: Config) -> None:
    (done.run_dir / ".checkpoint-5.grpo-tmp").mkdir()
    (done.run_dir / "checkpoint-4").rename(
        done.run_dir / ".checkpoint-4.grpo-old"
    )  # killed between two renames
    shutil.rmtree(done.run_dir / "final")
    said, _ = notices(done.run_dir)
    assert said[0] == f"resuming from {done.run_dir / 'checkpoint-4'}"
    assert not list(done.run_dir.glob(".*grpo-tmp*")) + list(done.run_dir.glob(".*.grpo-old"))


def test_the_tokenizer_outlives_the_checkpoint_it_was_loaded_from(done: Config) -> None:
    original = (done.run_dir / "final/tokenizer.pkl").read_bytes()
    resume(done.run_dir / "checkpoint-1", ["keep_checkpoints=1"])
    assert not (done.run_dir / "checkpoint-1").exists()
    assert (done.run_dir / "final/tokenizer.pkl").read_bytes() == original


def test_an_edited_configuration_does_not_bypass_what_must_stay(done: Config) -> None:
    file = done.run_dir / "config.toml"
    file.write_text(file.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(ConfigError, match="seed cannot change when a run is resumed"):
        resume(done.run_dir, ["max_steps=6"])


def test_a_damaged_configuration_is_that_of_the_checkpoint(done: Config) -> None:
    (done.run_dir / "config.toml").write_text("max_steps = ")
    said, final = notices(done.run_dir, "max_steps=5")
    assert "config.toml is damaged" in said[0]
    assert read_state(final)[0].step == 5
    assert "max_steps = 5" in (done.run_dir / "config.toml").read_text()


def test_a_run_cannot_be_made_shorter_than_it_is(done: Config) -> None:
    with pytest.raises(ConfigError, match="the run has already made 4 steps and would end after 3"):
        resume(done.run_dir, ["max_steps=3"])


def test_the_current_folder_by_its_dot(done: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done.run_dir)
    resume(Path(), ["max_steps=5"])
    assert 'run_name = "run"' in (done.run_dir / "config.toml").read_text()


def test_the_date_of_the_start_is_kept(tmp_path: Path) -> None:
    config = small(tmp_path, **QUICK)
    final = train(config)
    state = json.loads((final / "trainer_state.json").read_text())
    assert state["started_at"]
    assert read_state(resume(config.run_dir, ["max_steps=2"]))[0].started_at == state["started_at"]
    run = setup.prepare(config, checkpoint=final, started_at="2021-02-03T04:05:06")
    assert run.policy.tokenizer.now is not None
    assert run.policy.tokenizer.now.year == 2021


def test_a_run_of_an_earlier_version_has_its_own_stream_of_prompts(tmp_path: Path) -> None:
    """Its state has no date, its checksum is of the ids that fit, and its order is of these alone."""
    rows = [{"question": "1 + " * n + "1?", "answer": str(n + 1)} for n in range(12)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset": str(tmp_path / "train.jsonl"), "eval_steps": 0, "max_train_samples": 0}
    config = small(tmp_path, **{**QUICK, **data, "max_prompt_length": 18})
    run = setup.prepare(config)
    fitting = [prompt for prompt in run.train_prompts if len(prompt.ids) <= 18]
    assert 0 < len(fitting) < len(rows)
    as_before(run)
    ids = [[prompt.ids, prompt.example.answer] for prompt in fitting]
    assert run.state.data == hashlib.sha256("".join(json.dumps(pair) for pair in ids).encode()).hexdigest()
    order = DataOrder(len(fitting), config.seed).take(3, 5)
    taken, left_out = run.train_prompts.take(3, 5)
    assert ([prompt.ids for prompt in taken], left_out) == ([fitting[place].ids for place in order], 0)
