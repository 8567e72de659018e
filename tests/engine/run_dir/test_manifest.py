"""Damaged checkpoints are told and left out: the next older one is taken."""

import json
import shutil
from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir import manifest as intact
from grpo_cli.engine.run_dir.manifest import MANIFEST
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError
from tests.support.finished_runs import notices
from tests.support.one_step_runs import QUICK
from tests.support.small_runs import lines, small


def test_a_file_that_cannot_be_read_is_damage(done: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def sha256(path: Path) -> str:
        if path.parent.name == "final":
            raise OSError(5, "Input/output error")
        return real(path)

    real = intact.sha256
    monkeypatch.setattr(intact, "sha256", sha256)
    said, _ = notices(done.run_dir, "max_steps=5")
    assert "final is damaged" in said[0] and "cannot be read: Input/output error" in said[0]


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_damaged_final_by_name_falls_back_to_the_checkpoint_of_the_same_step(
    done: Config, file: str
) -> None:
    (done.run_dir / "final" / file).unlink()
    said, final = notices(done.run_dir / "final")
    assert f"{file} is missing" in said[0]
    assert said[1] == f"resuming from {(done.run_dir / 'checkpoint-4').absolute()}"
    assert read_state(final)[0].step == 4


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


def test_where_every_checkpoint_is_damaged_nothing_begins_again_unasked(tmp_path: Path) -> None:
    config = small(tmp_path, **QUICK)
    train(config)
    whole = (config.run_dir / "final/model.safetensors").read_bytes()
    (config.run_dir / "final/model.safetensors").write_bytes(whole[:-1])
    log = (config.run_dir / "training_log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"^No checkpoint in .* is intact: final \(model.saf") as error:
        resume(config.run_dir)
    assert f"`grpo resume {config.run_dir} --restart`" in error.value.hint
    assert (config.run_dir / "training_log.jsonl").read_bytes() == log
    final = resume(config.run_dir, restart=True)
    assert (final / "model.safetensors").read_bytes() == whole
    assert [line["step"] for line in lines(config.run_dir)] == [1]
    assert (config.run_dir / "final.aside").is_dir()
    with pytest.raises(CheckpointError, match="is a checkpoint"):
        resume(final, restart=True)
