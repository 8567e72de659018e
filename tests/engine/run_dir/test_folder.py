"""A run's folder: moved away, changed by a reward, a person's own, or received with traps in it."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.lock import LOCK_FILE, RunLock
from grpo_cli.engine.run_dir.manifest import checkpoints
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError, GrpoError
from grpo_cli.models.find import TINY
from tests.support.one_step_runs import QUICK
from tests.support.small_runs import SHORT, lines, log_without_times, small
from tests.support.waiting import no_wait_forever

MOVES = """
import os

def moves(completions, **columns):
    if os.path.exists("elsewhere"):
        os.chdir("elsewhere")
    return [float(len(text[0]["content"]) % 3) for text in completions]
"""
ACTS = """
import os, shutil
calls = 0

def acts(completions, **columns):
    global calls
    calls += 1
    if calls == 3:
        {act}
    return [float(len(text[0]["content"]) % 3) for text in completions]
"""
MOVES_RUN = 'os.rename("outputs/run", "outputs/moved")'
DELETES_RUN = 'shutil.rmtree("outputs/run")'


def notices_of(act: str) -> list[str]:
    """Train 4 steps, saving at 2 and 4, with a reward that acts in step 3; the run's notices."""
    Path("mine.py").write_text(ACTS.format(act=act))
    told: list[events.Event] = []
    changes = {"reward_functions": ["mine.py:acts"], "max_steps": 4, "save_steps": 2}
    config = small(Path("outputs"), **{**SHORT, **changes})
    train(config, told.append)
    return [event.text for event in told if isinstance(event, events.Notice)]


def test_a_folder_that_is_moved_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = notices_of(MOVES_RUN)
    assert "the run's folder outputs/run was moved to outputs/moved: the run continues there" in said
    assert not Path("outputs/run").exists()
    names = ["checkpoint-2", "checkpoint-4", "final"]
    assert [path.name for path in checkpoints(Path("outputs/moved"))] == names
    assert len(lines(Path("outputs/moved"))) == 4
    assert not (Path("outputs/moved") / LOCK_FILE).exists()
    assert read_state(resume(Path("outputs/moved"), ["max_steps=5"]))[0].step == 5


def test_a_folder_that_is_moved_stays_locked_and_its_old_name_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    another = "; ".join(
        [MOVES_RUN, 'os.mkdir("outputs/run")', 'open("outputs/run/config.toml", "w").close()']
    )
    notices_of(another)
    assert [path.name for path in Path("outputs/run").iterdir()] == ["config.toml"]  # another run's
    with RunLock(Path("outputs/moved")) as lock:
        Path("outputs/moved").rename("outputs/again")
        with pytest.raises(CheckpointError, match="is in use by the process"), RunLock(Path("outputs/again")):
            pass
        assert lock.follow() == tmp_path / "outputs/again"


def test_a_folder_that_is_deleted_is_made_again_and_the_work_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = notices_of(DELETES_RUN)
    assert any(
        text.startswith("the run's folder outputs/run was deleted: it was created again") for text in said
    )
    names = ["checkpoint-4", "completions.jsonl", "config.toml", "final", "training_log.jsonl"]
    assert sorted(path.name for path in Path("outputs/run").iterdir()) == names
    assert read_state(resume(Path("outputs/run"), ["max_steps=5"]))[0].step == 5


def test_another_run_in_a_deleted_folders_place_is_never_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="was deleted or moved, and another one has its name") as error:
        notices_of("; ".join([DELETES_RUN, 'os.mkdir("outputs/run")', 'os.mkdir("outputs/run/theirs")']))
    assert "`mv outputs/run outputs/run.aside`" in error.value.hint
    assert [path.name for path in Path("outputs/run").iterdir()] == ["theirs"]


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
    names += ["machines.jsonl", "training_log.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out/run").iterdir()) == names
    monkeypatch.chdir(tmp_path)
    assert resume(Path("out/run"), ["max_steps=4"]) == tmp_path / "out/run/final"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (finished,) = [event for event in seen if isinstance(event, events.RunFinished)]
    assert finished.final == Path("out/run/final")  # as people see it


def test_a_persons_own_folders_stay(done: Config) -> None:
    for name in ("checkpoint-4.old", "checkpoint-4.tmp", "best"):
        shutil.copytree(done.run_dir / "checkpoint-4", done.run_dir / name)
    resume(done.run_dir / "best", ["max_steps=5"])
    names = {path.name for path in done.run_dir.iterdir()}
    assert {"checkpoint-4.old", "checkpoint-4.tmp", "best", "checkpoint-2", "checkpoint-4"} <= names


def link(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


def pipe(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("trap", [link, pipe, folder])
@pytest.mark.parametrize("name", ["training_log.jsonl", "completions.jsonl", "run.lock", "config.toml"])
def test_nothing_outside_of_a_received_folder_is_written(
    tmp_path: Path, received: Config, trap: Callable[[Path, Path], None], name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    trap(received.run_dir / name, outside)
    with no_wait_forever(), suppress(GrpoError):
        try:
            resume(received.run_dir, ["max_steps=2"])
        except CheckpointError as error:  # named as what it is: no checkpoint failed
            assert str(error).startswith(f"Unusable file in the run's folder: {received.run_dir / name}: ")
            raise
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize(
    "name", ["config.toml.tmp", ".grpo-tmp-0123456789abcdef.toml", ".checkpoint-2.grpo-old",
             ".final.grpo-tmp-x3k9", ".final.grpo-old", "final.aside", "training_log.jsonl.aside"]
)  # fmt: skip
def test_temporary_names_may_be_taken_by_anything(tmp_path: Path, received: Config, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    (received.run_dir / name).symlink_to(outside / "file" if name.endswith(("l", "tmp")) else outside)
    final = resume(received.run_dir, ["max_steps=2"])
    assert read_state(final)[0].step == 2 and not final.is_symlink()
    assert (outside / "file").read_text() == "theirs"


def test_a_checkpoint_that_is_a_link_is_read_and_replaced(tmp_path: Path, received: Config) -> None:
    (received.run_dir / "final").rename(tmp_path / "kept")
    (received.run_dir / "final").symlink_to(tmp_path / "kept")
    before = (tmp_path / "kept/manifest.json").read_bytes()
    final = resume(received.run_dir, ["max_steps=2"])
    assert (tmp_path / "kept/manifest.json").read_bytes() == before
    assert not final.is_symlink() and [line["step"] for line in log_without_times(received.run_dir)] == [1, 2]


@pytest.fixture
def received(tmp_path: Path) -> Config:
    """A run of one step."""
    config = small(tmp_path, **QUICK)
    train(config)
    return config


def test_a_reward_that_leaves_the_folder_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "r.py").write_text(
        f"import os\ndef leave(completions, **_):\n    os.chdir({str(tmp_path / 'far')!r})\n"
        "    return [1.0] * len(completions)\n"
    )
    config = small(Path("out"), **{**QUICK, "reward_functions": ["r.py:leave"], "save_steps": 1})
    seen: list[events.Event] = []
    train(config, seen.append)
    names = sorted(path.name for path in (tmp_path / "out/run").iterdir())
    assert names == [
        "checkpoint-1", "completions.jsonl", "config.toml", "final", "machines.jsonl", "training_log.jsonl",
    ]  # fmt: skip
    assert list((tmp_path / "far").iterdir()) == []
