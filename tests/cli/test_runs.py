"""`grpo runs`: the table by its exact text, its options, and the removal of runs with a person's yes."""

import io
import json
from pathlib import Path

import pytest

from grpo_cli.cli import runs as command
from grpo_cli.engine.run_dir.ending import record_ending
from grpo_cli.engine.run_dir.lock import RunLock
from tests.support.commands import grpo
from tests.support.run_folders import finished_folder, run_folder

pytestmark = pytest.mark.usefixtures("ordinary_terminal")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """outputs with a finished, a failed and an interrupted run; the current folder is around it."""
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs"
    finished_folder(outputs, "good", accuracies=(0.39, 0.5, 1.0), changed=3000)
    failed = run_folder(outputs, "bad", steps=3, accuracies=(0.4, 0.3), changed=2000)
    run_folder(outputs, "half", steps=2, changed=1000)
    with RunLock(failed) as lock:
        record_ending(lock, ValueError("broke\x1b[2J"))
    return outputs


def names(*options: str) -> list[str]:
    result = grpo("runs", "--json", *options)
    assert result.exit_code == 0
    return [run["name"] for run in json.loads(result.stdout)]


def test_the_table_for_programs(three: Path) -> None:
    result = grpo("runs")
    good, bad, half = (size(three, name) for name in ("good", "bad", "half"))
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "run   model         data   state        steps  accuracy                  size  changed",
        f"good  Qwen2.5-1.5B  gsm8k  done           4/4  39.0 → 100.0 %  ▁▂█  {good}  1970-01-01",
        f"bad   Qwen2.5-1.5B  gsm8k  failed           3  40.0 → 30.0 %   █▁   {bad}  1970-01-01",
        f"half  Qwen2.5-1.5B  gsm8k  interrupted      2                       {half}  1970-01-01",
        "bad: ValueError: broke␛[2J",
    ]


def size(outputs: Path, name: str) -> str:
    """The size of a run as the table shows it: all are below a kilobyte."""
    return f"{sum(path.stat().st_size for path in (outputs / name).rglob('*') if path.is_file())} bytes"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["good", "bad", "half"]),
        (["--sort", "name"], ["bad", "good", "half"]),
        (["--sort", "accuracy"], ["good", "bad", "half"]),
        (["--sort", "steps"], ["good", "bad", "half"]),
        (["--state", "failed", "--state", "done"], ["good", "bad"]),
        (["outputs/half"], ["half"]),
        (["."], ["good", "bad", "half"]),
    ],
)
@pytest.mark.usefixtures("three")
def test_order_and_choice(options: list[str], expected: list[str]) -> None:
    assert names(*options) == expected


def test_the_largest_run_stands_first_by_size(three: Path) -> None:
    (three / "half" / "completions.jsonl").write_text("x" * 9999)
    assert names("--sort", "size")[0] == "half"


def test_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (grpo("runs").exit_code, grpo("runs").stderr) == (0, "No runs in outputs.\n")
    assert grpo("runs", "--json").stdout == "[]\n"
    result = grpo("runs", "outptus")
    assert result.exit_code == 2
    assert "no such folder: outptus" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--yes"], "--yes needs --clean"),
        (["--clean", "--json"], "--clean asks and prints no JSON"),
        (["--clean", "--yes"], "--yes needs the states to remove"),
    ],
)
def test_options_that_do_not_go_together(three: Path, options: list[str], words: str) -> None:
    result = grpo("runs", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert len(list(three.iterdir())) == 3


def test_without_a_terminal_nothing_is_removed(three: Path) -> None:
    (three / "bad" / "notes.md").write_text("mine")
    result = grpo("runs", "--clean", "--state", "failed", stdin="y\n")
    assert result.exit_code == 0
    shown = f"{sum(path.stat().st_size for path in (three / 'bad').iterdir())} bytes"
    assert result.stderr.splitlines() == [
        f"Can be removed, 1 run, {shown}:",
        f"  {shown:>10}  outputs/bad  (failed, 3 steps)",
        "              stays, not written by grpo: notes.md",
        "To remove these, add --yes to the command.",
    ]
    assert len(list(three.iterdir())) == 3


def test_yes_removes_the_runs_in_the_named_states(three: Path) -> None:
    freed = size(three, "bad")
    result = grpo("runs", "--clean", "--state", "failed", "--yes")
    assert result.stderr.splitlines()[-1] == f"1 run removed, {freed} freed."
    assert sorted(path.name for path in three.iterdir()) == ["good", "half"]


def test_what_stays_is_named_and_not_counted_as_freed(three: Path) -> None:
    freed = size(three, "bad")
    (three / "bad" / "notes.md").write_text("x" * 5000)
    result = grpo("runs", "--clean", "--state", "failed", "--yes")
    assert result.stderr.splitlines()[-2:] == [
        "outputs/bad stays, with what grpo did not write: notes.md",
        f"1 run removed, {freed} freed.",
    ]
    assert [path.name for path in (three / "bad").iterdir()] == ["notes.md"]


def test_yes_removes_one_run_that_is_named(three: Path) -> None:
    assert grpo("runs", "outputs/good", "--clean", "--yes").exit_code == 0
    assert sorted(path.name for path in three.iterdir()) == ["bad", "half"]


def test_a_person_is_asked_for_each(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "is_interactive", lambda _: True)
    result = grpo("runs", "--clean", stdin="n\ny\n\n")
    assert sorted(path.name for path in three.iterdir()) == ["good", "half"]
    assert "Remove outputs/good (" in result.stderr
    assert "1 run removed" in result.stderr


def test_a_running_run_and_links_stay(three: Path) -> None:
    (three.parent / "elsewhere").mkdir()
    real = finished_folder(three.parent / "elsewhere", "real")
    (three / "link").symlink_to(real)
    with RunLock(three / "good"):
        result = grpo("runs", "--clean", "--yes", "--state", "done", "--state", "running")
        assert "outputs/good stays: it is running as process" in result.stderr
    assert "outputs/link stays: it is a link to another folder." in result.stderr
    assert "There is nothing to remove." in result.stderr
    assert (three / "good" / "config.toml").exists()
    assert (real / "config.toml").exists()


def test_nothing_is_removed_through_a_link_and_the_named_folder_can_be_given(three: Path) -> None:
    Path("link").symlink_to(three)
    result = grpo("runs", "link", "--clean", "--yes", "--state", "failed")
    assert f"link is a link; give the folder itself: {three.resolve()}" in " ".join(result.stderr.split())
    assert len(list(three.iterdir())) == 3
    grpo("runs", str(three.resolve()), "--clean", "--yes", "--state", "failed")
    assert len(list(three.iterdir())) == 2


def test_hostile_names_steer_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = "x\x1b[2J\n\u202ey"
    run_folder(tmp_path / "outputs", evil, model_name=f"m/{evil}"[:20], dataset=evil)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    for options in ([], ["--json"], ["--clean"], ["--clean", "--yes", "--state", "interrupted"]):
        result = grpo("runs", *options)
        assert not set(result.output) & set("\x1b\u202e")
    assert list((tmp_path / "outputs").iterdir()) == []
