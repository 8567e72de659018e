"""A run that was interrupted comes out as one that was not: byte for byte, on a CPU."""

import json
import os
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.manifest import MANIFEST
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError, ConfigError
from tests.engine.test_train import lines, small

TIMES = {"rollout_seconds", "update_seconds", "step_seconds", "rollout_tokens_per_second", "eval_seconds"}
# Few examples, so that epochs end inside the run.
SHORT = {
    "max_train_samples": 10,
    "num_epochs": 3,
    "max_steps": 6,
    "batch_size": 2,
    "num_generations": 4,
    "max_new_tokens": 12,
    "eval_max_new_tokens": 12,
    "temperature": 1.5,
    "reward_functions": [f"{Path(__file__).parent}/letter_reward.py:mean_letter"],
    "log_completions": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora_rank": 2},
    "dora and kl": {"lora_rank": 2, "lora_type": "dora", "kl_coeff": 0.1, "learning_rate": 1e-3},
    "rewards in processes": {"reward_workers": 2},
    "rslora": {"lora_rank": 2, "use_rslora": True},
    "accumulation": {"batch_size": 1, "gradient_accumulation_steps": 2},
    "kl": {"kl_coeff": 0.1},
    "lora and kl": {"lora_rank": 2, "lora_layers": 2, "kl_coeff": 0.1},
    "several updates": {"num_iterations": 3},
    "several updates and kl": {"num_iterations": 2, "kl_coeff": 0.1, "loss_type": "grpo"},
    "several updates by sequence": {
        "num_iterations": 3,
        "loss_type": "gspo",
        "kl_coeff": 0.1,
        "use_bias_correction_kl": True,
        "clip_eps": 1e-3,
    },
    "filters": {
        "num_iterations": 2,
        "loss_type": "bnpo",
        "top_entropy_quantile": 0.5,
        "entropy_coeff": 0.01,
        "mask_truncated_completions": True,
        "soft_overlong_tokens": 6,
        "max_new_tokens": 40,
    },
    "several updates and a cut tail": {"num_iterations": 3, "top_k": 20, "min_p": 0.01},
    "half precision": {"dtype": "bfloat16"},
    "quantized rollouts": {"quantize_for_rollouts": True, "group_size": 32},
    "quantized rollouts of adapters": {"quantize_for_rollouts": True, "lora_rank": 2, "lora_type": "dora"},
    "quantized rollouts, several updates": {
        "quantize_for_rollouts": True,
        "bits": 3,
        "num_iterations": 3,
        "kl_coeff": 0.1,
        "top_k": 20,
        "importance_sampling_mode": "sequence_mask",
    },
    "quantized rollouts, steps of one generation": {
        "quantize_for_rollouts": True,
        "bits": 3,
        "steps_per_generation": 2,
        "dynamic_sampling": True,
        "loss_type": "gspo",
    },
    "sgd": {"optimizer": "sgd"},
    "lion": {"optimizer": "lion"},
    "evaluation": {"eval_steps": 2, "eval_samples": 4},
}
# One of every kind of state; `python -m tests.bench.resumed` tries all variants.
TRIED = (
    "full", "dora and kl", "rewards in processes", "several updates by sequence", "half precision",
    "quantized rollouts of adapters", "lion", "evaluation",
)  # fmt: skip


class Stop(KeyboardInterrupt):
    """Ends a run in the middle of a step. A listener that raises anything else is dropped."""


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines(folder)]
    return [{k: v for k, v in line.items() if k != "peak_memory_gb"} for line in kept]


def weights(folder: Path) -> bytes:
    (file,) = [
        path for name in ("model", "adapters") for path in (folder / "final").glob(f"{name}.safetensors")
    ]
    return file.read_bytes()


def crash_after(step: int) -> events.Listener:
    """A listener that crashes in the rollouts of the step after this one."""
    done = 0

    def listen(event: events.Event) -> None:
        nonlocal done
        if isinstance(event, events.StepFinished):
            done = event.step
        if isinstance(event, events.RolloutProgress | events.UpdateProgress) and done == step:
            raise Stop

    return listen


def crash(config: Config, step: int) -> None:
    """Kill a run in the step after this one: what a rescue saves of it is gone."""
    with pytest.raises(Stop):
        setup.train(config, crash_after(step))
    if not config.save_steps or step % config.save_steps:
        shutil.rmtree(config.run_dir / f"checkpoint-{step}")


def interrupt_after(step: int) -> events.Listener:
    """A listener that asks for the end, as Ctrl-C does, once this step is done."""

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


@pytest.mark.parametrize("variant", TRIED)
def test_interrupted_and_resumed_is_uninterrupted(variant: str, tmp_path: Path) -> None:
    check_resumed(variant, tmp_path)


def check_resumed(variant: str, tmp_path: Path) -> None:
    """Interrupt twice: by a crash inside a step, which loses it, and by Ctrl-C, which does not."""
    settings = {**SHORT, **VARIANTS[variant]}
    whole = small(tmp_path, run_name="whole", save_steps=2, **settings)
    setup.train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **settings)
    crash(broken, 3)
    assert read_state(broken.run_dir / "checkpoint-2")[0].step == 2
    with pytest.raises(KeyboardInterrupt):
        resume(broken.run_dir, [], interrupt_after(5))
    assert resume(broken.run_dir) == (broken.run_dir / "final").absolute()
    assert log_without_times(broken.run_dir) == log_without_times(whole.run_dir)
    assert weights(broken.run_dir) == weights(whole.run_dir)
    completions = [folder / "completions.jsonl" for folder in (whole.run_dir, broken.run_dir)]
    assert completions[0].read_bytes() == completions[1].read_bytes()
    assert all(line["grad_norm"] > 0 for line in lines(whole.run_dir) if "grad_norm" in line)


@pytest.fixture
def done(tmp_path: Path) -> Config:
    """A finished run of four steps with a checkpoint at each."""
    return finished(tmp_path)


def finished(tmp_path: Path) -> Config:
    """A run of four steps with a checkpoint at each, as it was copied here."""
    config = four_steps(tmp_path)
    shutil.copytree(made_once().run_dir, config.run_dir)
    return config


def four_steps(folder: Path) -> Config:
    return small(folder, **{**SHORT, "max_steps": 4, "save_steps": 1, "keep_checkpoints": 4})


@cache
def made_once() -> Config:
    """The run that is copied."""
    config = four_steps(Path(tempfile.mkdtemp()))
    setup.train(config)
    return config


def notices(path: Path, *overrides: str) -> tuple[list[str], Path]:
    seen: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)

    return seen, resume(path, overrides, listen)


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
    assert said[0] == f"{done.run_dir / 'checkpoint-4'} is damaged ({reason}) and is skipped"
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
        f"{done.run_dir / 'final'} was written by another version of grpo: its manifest has version 1, "
        "but this one reads 2"
    )


def test_no_checkpoint_yet_begins_again(tmp_path: Path) -> None:
    config = small(tmp_path, **SHORT)
    crash(config, 2)
    assert [line["step"] for line in lines(config.run_dir)] == [1, 2]
    said, _ = notices(config.run_dir)
    assert said == [f"{config.run_dir} holds no checkpoint yet: the run starts over"]
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
    with pytest.raises(CheckpointError, match="The training prompts differ from those"):
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
