"""Resuming what was edited, copied, cut or half destroyed: told, and nothing of a person's is lost."""

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import setup
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir import manifest as intact
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.update import optimizer
from grpo_cli.errors import ConfigError
from tests.engine.test_resume import SHORT, finished, notices
from tests.engine.test_train import lines, small


@pytest.fixture
def done(tmp_path: Path) -> Config:
    """A finished run of four steps with a checkpoint at each."""
    return finished(tmp_path)


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


def test_a_persons_own_folders_stay(done: Config) -> None:
    for name in ("checkpoint-4.old", "checkpoint-4.tmp", "best"):
        shutil.copytree(done.run_dir / "checkpoint-4", done.run_dir / name)
    resume(done.run_dir / "best", ["max_steps=5"])
    names = {path.name for path in done.run_dir.iterdir()}
    assert {"checkpoint-4.old", "checkpoint-4.tmp", "best", "checkpoint-2", "checkpoint-4"} <= names


def test_the_current_folder_by_its_dot(done: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done.run_dir)
    resume(Path(), ["max_steps=5"])
    assert 'run_name = "run"' in (done.run_dir / "config.toml").read_text()


def test_a_file_that_cannot_be_read_is_damage(done: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def sha256(path: Path) -> str:
        if path.parent.name == "final":
            raise OSError(5, "Input/output error")
        return real(path)

    real = intact.sha256
    monkeypatch.setattr(intact, "sha256", sha256)
    said, _ = notices(done.run_dir, "max_steps=5")
    assert "final is damaged" in said[0] and "cannot be read: Input/output error" in said[0]


def test_an_update_that_failed_half_way_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer runs out of memory in the third step: its weights belong to no step."""
    config, updates = small(tmp_path, **SHORT), 0

    class Failing:
        """mlx, whose third evaluation in the optimizer fails."""

        def __getattr__(self, name: str) -> object:
            return getattr(mx, name)

        def eval(self, *arrays: object) -> None:
            nonlocal updates
            updates += 1
            if updates == 3:
                raise RuntimeError("[cuda] out of memory")
            mx.eval(*arrays)

    monkeypatch.setattr(optimizer, "mx", Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        setup.train(config)
    assert not list(config.run_dir.glob("checkpoint-*"))


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_damaged_final_by_name_falls_back_to_the_checkpoint_of_the_same_step(
    done: Config, file: str
) -> None:
    (done.run_dir / "final" / file).unlink()
    said, final = notices(done.run_dir / "final")
    assert f"{file} is missing" in said[0]
    assert said[1] == f"resuming from {(done.run_dir / 'checkpoint-4').absolute()}"
    assert read_state(final)[0].step == 4
