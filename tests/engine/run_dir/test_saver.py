"""Saves that fail, by real means, and which checkpoints stay."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.manifest import checkpoints, damage
from grpo_cli.engine.run_dir.run_state import RunState, write_state
from grpo_cli.engine.run_dir.saver import best_of
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError
from tests.support import forked
from tests.support.small_runs import SHORT, lines, log_without_times, small, weights

LIMIT = 500_000  # bytes of a file; the model has 1.1 MB


def checkpoint(run_dir: Path, step: int, accuracy: float | None) -> Path:
    """A checkpoint's folder as far as retention looks at it."""
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    evaluations = [] if accuracy is None else [{"step": step, "eval_accuracy": accuracy}]
    write_state(folder, RunState(step=step, random_state=[1, 2], evaluations=evaluations), [])
    return folder


def test_the_best_is_that_of_the_highest_accuracy_and_the_newest_of_equals(tmp_path: Path) -> None:
    folders = [
        checkpoint(tmp_path, step, accuracy)
        for step, accuracy in ((10, 0.5), (20, 0.7), (30, None), (40, 0.7), (50, 0.6))
    ]
    assert best_of(folders) == folders[3]
    assert best_of([folders[2]]) is None
    (folders[3] / "trainer_state.json").write_text("{")
    assert best_of(folders) == folders[1]


def test_an_evaluation_of_an_earlier_step_is_not_a_checkpoints_own() -> None:
    state = RunState(step=7, evaluations=[{"step": 5, "eval_accuracy": 1.0}])
    assert state.evaluation is None


def test_the_newest_and_the_best_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.0, 0.2, 0.9, 0.3, 0.1, 0.4, 0.2])
    monkeypatch.setattr(
        "grpo_cli.engine.evaluation.evaluate.Evaluation.accuracy", property(lambda _: next(accuracies))
    )
    config = small(
        tmp_path, **{**SHORT, "eval_steps": 1, "eval_samples": 2, "save_steps": 1, "keep_checkpoints": 2}
    )
    train(config)
    names = [path.name for path in checkpoints(config.run_dir)]
    assert names == ["checkpoint-2", "checkpoint-5", "checkpoint-6", "final"]


def test_numbers_are_compared_and_not_names(tmp_path: Path) -> None:
    for name in (
        "checkpoint-9",
        "checkpoint-10",
        "checkpoint-100",
        "checkpoint-mine",
        "final",
        "checkpoint-3.old",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-9", "checkpoint-10", "checkpoint-100", "final",
    ]  # fmt: skip


def in_the_way(run_dir: Path, step: int, seen: list[str]) -> events.Listener:
    """After this step a file stands where the checkpoint would be written, until the next step."""
    place = run_dir / f"checkpoint-{step}"

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == step:
            place.write_text("in the way")
        elif isinstance(event, events.StepFinished):
            place.unlink(missing_ok=True)
        if isinstance(event, events.Notice):
            seen.append(event.text)

    return listen


def test_a_failed_save_is_told_and_tried_again_at_the_next_point(tmp_path: Path) -> None:
    seen: list[str] = []
    config = small(tmp_path, **{**SHORT, "save_steps": 1, "keep_checkpoints": 9})
    train(config, in_the_way(config.run_dir, 3, seen))
    assert [path.name for path in checkpoints(config.run_dir)] == [
        "checkpoint-1", "checkpoint-2", "checkpoint-4", "checkpoint-5", "checkpoint-6", "final",
    ]  # fmt: skip
    (notice,) = seen
    assert notice.startswith("Failed to save checkpoint: [Errno 17] File exists: ")
    assert notice.endswith(". Training continues and tries again at the next checkpoint.")


def test_a_folder_that_may_not_be_looked_at_is_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network disk that is away for a while: `stat` itself is refused."""
    seen: list[str] = []
    config = small(tmp_path, **{**SHORT, "save_steps": 1, "keep_checkpoints": 9, "max_steps": 3})
    real = Path.stat

    def refused(path: Path, **options: Any) -> os.stat_result:
        if path == config.run_dir:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished):
            monkeypatch.setattr(Path, "stat", refused if event.step == 2 else real)
        if isinstance(event, events.Notice):
            seen.append(event.text)

    train(config, listen)
    assert [path.name for path in checkpoints(config.run_dir)] == ["checkpoint-1", "checkpoint-3", "final"]
    assert seen == [
        f"Failed to save checkpoint: Permission denied: {config.run_dir}. Training continues and tries again "
        "at the next checkpoint."
    ]


def limited(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`grpo` in a process whose files cannot grow beyond LIMIT."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))"
    return forked.run(["-c", f"{limit}; from grpo_cli.cli.main import run; run()", *words], cwd=folder)


def test_after_three_failures_in_a_row_it_stops_with_nothing_half_written(tmp_path: Path) -> None:
    config = small(tmp_path / "outputs", **{**SHORT, "max_steps": 2})
    train(config)  # a checkpoint from before the disk is full
    before = {path: path.read_bytes() for path in (config.run_dir / "final").iterdir()}
    longer = ["max_steps=40", "save_steps=1"]
    done = limited(
        tmp_path,
        "resume",
        str(config.run_dir),
        "--accept-changes",
        *(w for change in longer for w in ("--set", change)),
    )
    assert done.returncode == 1
    assert done.stderr.count("Training continues and tries again") == 2
    assert "that is 3 times in a row" in done.stderr
    assert "grpo resume outputs/run" in done.stderr
    assert [line["step"] for line in lines(config.run_dir)] == [1, 2, 3, 4, 5]
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in checkpoints(config.run_dir)] == ["final"]
    assert not list(config.run_dir.glob(".*grpo-tmp*"))
    assert damage(config.run_dir / "final") is None
    resume(config.run_dir, ["max_steps=6", "save_steps=0"])
    assert [line["step"] for line in log_without_times(config.run_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_final_save_that_fails_ends_with_an_error(tmp_path: Path) -> None:
    config = small(tmp_path / "outputs", **{**SHORT, "max_steps": 2, "save_steps": 1})
    with pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: .*File exists") as error:
        train(config, in_place_of_final(config.run_dir))
    assert f"then `grpo resume {config.run_dir}` saves it" in error.value.hint
    (config.run_dir / "final").unlink()
    final = resume(config.run_dir)
    assert (final / "model.safetensors").read_bytes() == (
        config.run_dir / "checkpoint-2/model.safetensors"
    ).read_bytes()


def in_place_of_final(folder: Path) -> events.Listener:
    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == 2:
            (folder / "final").write_text("in the way")

    return listen


@pytest.fixture
def tmpfs(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A disk of 32 MB, which can be made read-only; it takes root to mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_has_room_again(tmpfs: Path, tmp_path: Path) -> None:
    """Room for two checkpoints of 7 MB; a third would leave less than is allowed for its small files."""
    seen: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)
        if isinstance(event, events.StepFinished) and event.step == 4:
            shutil.rmtree(tmpfs / "out/run/checkpoint-1")

    settings = {**SHORT, "model_name": "tiny", "save_steps": 1, "keep_checkpoints": 9, "optimizer": "sgd"}
    whole = small(tmp_path / "other", **settings)
    train(whole)
    config = small(tmpfs / "out", **settings)
    with pytest.raises(CheckpointError, match="GB free"):
        train(config, listen)
    assert any("Training continues" in text for text in seen)
    assert all(damage(folder) is None for folder in checkpoints(config.run_dir))
    for folder in checkpoints(config.run_dir)[:-1]:
        shutil.rmtree(folder)
    resume(config.run_dir, ["keep_checkpoints=1", "save_steps=0"])
    assert weights(config.run_dir) == weights(whole.run_dir)
    assert log_without_times(config.run_dir) == log_without_times(whole.run_dir)


def test_a_disk_without_room_is_known_before_the_first_step(tmpfs: Path) -> None:
    (tmpfs / "film").write_bytes(bytes(20 << 20))
    with pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: it needs 0.03 GB, and"):
        train(small(tmpfs / "out", **{**SHORT, "model_name": "tiny"}))
    assert not (tmpfs / "out/run").exists()
    (tmpfs / "film").unlink()
    seen: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)

    settings = {**SHORT, "model_name": "tiny", "save_steps": 5, "keep_checkpoints": 1, "optimizer": "sgd"}
    train(small(tmpfs / "out", **settings), listen)
    assert "the run will keep up to 0.09 GB of checkpoints" in seen[0]


def test_a_read_only_disk_is_known_before_the_first_step(tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    with pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: Read-only file system") as error:
        train(small(tmpfs / "out", **SHORT))
    assert "set `output_dir` to one that is" in error.value.hint


def test_log_lines_that_a_full_disk_refused_are_written_later(tmp_path: Path) -> None:
    script = f"""
import json, resource
from pathlib import Path
from grpo_cli.engine.run_dir.log import RunLog
log = RunLog(Path({str(tmp_path)!r}))
log.evaluation({{"step": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
log.evaluation({{"step": 2}})
log.evaluation({{"step": 3}})
print(json.dumps(log.positions()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.evaluation({{"step": 4}})
log.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["training_log.jsonl"] == 3 * len('{"step": 1}\n')
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
