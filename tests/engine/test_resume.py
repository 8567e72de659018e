"""A run that was interrupted comes out as one that was not: byte for byte, on a CPU."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.manifest import MANIFEST
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError, ConfigError
from tests.support.finished_runs import finished, notices
from tests.support.interruptions import crash
from tests.support.resumed_runs import check_resumed
from tests.support.small_runs import SHORT, lines, log_without_times, small, weights

# One of every kind of state; `python -m tests.bench.resumed` tries all variants.
TRIED = (
    "full", "dora and kl", "rewards in processes", "several updates by sequence", "half precision",
    "quantized rollouts of adapters", "lion", "evaluation",
)  # fmt: skip


@pytest.mark.parametrize("variant", TRIED)
def test_interrupted_and_resumed_is_uninterrupted(variant: str, tmp_path: Path) -> None:
    check_resumed(variant, tmp_path)


@pytest.fixture
def done(tmp_path: Path) -> Config:
    """A finished run of four steps with a checkpoint at each."""
    return finished(tmp_path)


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
    setup.train(planned)
    grown = small(tmp_path, run_name="grown", **{**settings, "max_steps": 3})
    setup.train(grown)
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


FILES = ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", "tokenizer.pkl",
         "tokenizer.json", "config.toml"]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_is_reported_and_the_next_older_taken(
    done: Config, file: str, damage: str
) -> None:
    shutil.rmtree(done.run_dir / "final")
    path = done.run_dir / "checkpoint-4" / file
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flipped" else data[:-1])
    reason = {
        "truncated": f"{file} has {len(data) - 1} of {len(data)} bytes",
        "flipped": f"{file} does not match its checksum",
        "missing": f"{file} is missing",
    }[damage]
    said, final = notices(done.run_dir)
    assert said[0] == f"{done.run_dir / 'checkpoint-4'} is damaged ({reason}) and is left out"
    assert said[1] == f"resuming from {done.run_dir / 'checkpoint-3'}"
    assert (done.run_dir / "checkpoint-4.aside").exists()
    assert read_state(final)[0].step == 4
    assert [line["step"] for line in lines(done.run_dir)] == [1, 2, 3, 4]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"version": 2, "step": 4}'])
def test_a_damaged_manifest(done: Config, content: str | None) -> None:
    shutil.rmtree(done.run_dir / "final")
    manifest = done.run_dir / "checkpoint-4" / MANIFEST
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    said, _ = notices(done.run_dir)
    assert f"({MANIFEST} is {'missing' if content is None else 'damaged'}" in " ".join(said)
    assert f"resuming from {done.run_dir / 'checkpoint-3'}" in said


def test_a_damaged_checkpoint_by_name(done: Config) -> None:
    (done.run_dir / "checkpoint-3" / "config.json").write_text("{}")
    said, _ = notices(done.run_dir / "checkpoint-3")
    assert "checkpoint-3 is damaged (config.json has 2 of" in said[0]
    assert said[1] == f"resuming from {done.run_dir / 'checkpoint-2'}"


def test_a_manifest_of_another_version(done: Config) -> None:
    manifest = done.run_dir / "final" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 1}))
    with pytest.raises(CheckpointError) as error:
        resume(done.run_dir)
    assert error.value.message == (
        f"{done.run_dir / 'final'} was written by another version of grpo: its manifest is of version 1, "
        "and this one reads 2"
    )


def test_no_checkpoint_yet_begins_again(tmp_path: Path) -> None:
    config = small(tmp_path, **SHORT)
    crash(config, 2)
    assert [line["step"] for line in lines(config.run_dir)] == [1, 2]
    said, _ = notices(config.run_dir)
    assert said == [f"{config.run_dir} holds no checkpoint yet: the run begins again"]
    whole = small(tmp_path, run_name="whole", **SHORT)
    setup.train(whole)
    assert log_without_times(config.run_dir) == log_without_times(whole.run_dir)
    assert weights(config.run_dir) == weights(whole.run_dir)


def test_a_checkpoint_that_was_copied_elsewhere_goes_on_there(done: Config, tmp_path: Path) -> None:
    elsewhere = tmp_path / "usb stick"
    shutil.copytree(done.run_dir / "checkpoint-2", elsewhere / "checkpoint-2")
    before = {path: path.stat().st_mtime_ns for path in done.run_dir.rglob("*")}
    final = resume(elsewhere / "checkpoint-2")
    assert final == elsewhere / "final"
    assert (final / "model.safetensors").read_bytes() == (
        done.run_dir / "final/model.safetensors"
    ).read_bytes()
    assert [line["step"] for line in lines(elsewhere)] == [3, 4]
    assert {path: path.stat().st_mtime_ns for path in done.run_dir.rglob("*")} == before
    assert f'run_name = "{elsewhere.name}"' in (elsewhere / "config.toml").read_text()


@pytest.mark.parametrize("name", ["checkpoint-9", "nowhere/checkpoint-1"])
def test_what_is_not_there_lists_what_is(done: Config, name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        resume(done.run_dir / name)
    assert error.value.message == f"Checkpoint not found: {done.run_dir / name}"
    if name == "checkpoint-9":
        assert str(done.run_dir / "checkpoint-4") in error.value.hint
    with pytest.raises(CheckpointError) as error:  # the guide's own case: without the run's name
        resume(Path(done.output_dir) / "checkpoint-1000")
    assert str(done.run_dir / "checkpoint-1") in error.value.hint


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        resume(tmp_path)
    assert error.value.message == f"Checkpoint not found: {tmp_path}"
    assert "holds none" in error.value.hint


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
    setup.train(config)
    (tmp_path / "train.jsonl").write_text("".join(reversed(rows)))
    with pytest.raises(CheckpointError, match="The training prompts are not those"):
        resume(config.run_dir, ["max_steps=3"])


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


def test_an_interruption_is_told_with_the_command_that_goes_on(tmp_path: Path) -> None:
    seen: list[str] = []
    steps = [0]

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished):
            steps.append(event.step)
        elif isinstance(event, events.RolloutProgress) and steps == [0, 1]:
            steps.append(-1)  # once
            os.kill(os.getpid(), signal.SIGINT)
        elif isinstance(event, events.Notice):
            seen.append(event.text)

    config = small(tmp_path, **SHORT)
    with pytest.raises(KeyboardInterrupt) as ended:
        setup.train(config, listen)
    folder = config.run_dir
    assert seen == ["Stopping after step 2 (saving…). Press Ctrl-C again to quit now."]
    assert str(ended.value) == "Stopped after step 2."
    assert ended.value.__notes__ == [
        f"Step 2 is saved in {folder / 'checkpoint-2'}.",
        f"Resume with: `grpo resume {folder}`",
    ]
    assert dump_config(config) == (folder / "config.toml").read_text()
