"""A file that a person names for a result: noticed before the work, written whole after it."""

import os
import subprocess
from pathlib import Path

import pytest

from grpo_cli.cli.output_file import OutputFile
from grpo_cli.engine.evaluation import evaluate
from grpo_cli.errors import ConfigError, GrpoError
from tests.support.commands import grpo
from tests.support.forked import start
from tests.support.waiting import HANG

EVAL = ("eval", "--model", "tiny", "--samples", "2", "--set", "eval_max_new_tokens=4", "--output")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_there_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_: pytest.fail("it was loaded"))
    Path("mine.jsonl").write_text("earlier\n")
    for words in ((*EVAL, "mine.jsonl"), ("doctor", "--only", "python", "--report", "mine.jsonl")):
        result = grpo(*words)
        assert result.exit_code == 2
        assert result.stderr.startswith("Output file exists: mine.jsonl\n\nhint: ")
        assert Path("mine.jsonl").read_text() == "earlier\n"


def test_a_mistake_costs_no_earlier_results() -> None:
    Path("mine.jsonl").write_text("earlier\n")
    result = grpo("eval", "--model", "nowhere", "--output", "mine.jsonl", "--force")
    assert result.exit_code == 1 and Path("mine.jsonl").read_text() == "earlier\n"


def test_force_and_an_empty_file_are_written() -> None:
    Path("mine.jsonl").touch()
    assert grpo(*EVAL, "mine.jsonl").exit_code == 0
    first = Path("mine.jsonl").read_text()
    assert len(first.splitlines()) == 2
    Path("mine.jsonl").write_text("other")
    assert grpo(*EVAL, "mine.jsonl", "--force").exit_code == 0
    assert Path("mine.jsonl").read_text() == first and os.listdir() == ["mine.jsonl"]  # noqa: PTH208


def test_completions_of_an_earlier_evaluation_are_replaced_by_those_of_the_next() -> None:
    assert [grpo(*EVAL, "mine.jsonl").exit_code for _ in range(2)] == [0, 0]
    first = Path("mine.jsonl").read_text()
    assert grpo("eval", "--model", "nowhere", "--output", "mine.jsonl").exit_code == 1
    assert Path("mine.jsonl").read_text() == first
    Path("mine.jsonl").write_text(first + '{"question": "1 + 1", "answer": "2"}\n')
    assert grpo(*EVAL, "mine.jsonl").stderr.startswith("Output file exists: mine.jsonl\n")


@pytest.mark.parametrize("named", ["data/test.jsonl", "data", "link"])
def test_the_dataset_is_never_replaced(named: str) -> None:
    Path("data").mkdir()
    row = '{"question": "1 + 1", "answer": "2"}\n'
    Path("data/test.jsonl").write_text(row)
    Path("link").symlink_to("data/test.jsonl")
    for dataset in ("data", "data/test.jsonl"):
        result = grpo(*EVAL, named, "--dataset", dataset, "--force")
        assert result.exit_code != 0 and result.stderr.startswith(
            ("Output file is part of the dataset: ", "Cannot write data")
        )
        assert Path("data/test.jsonl").read_text() == row


def test_nothing_is_added_to_the_folder_of_the_dataset() -> None:
    Path("data").mkdir()
    Path("data/test.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    for named in ("data/test-00001-of-00002.jsonl", "data/x/more.jsonl"):
        result = grpo(*EVAL, named, "--dataset", "data", "--force")
        assert result.stderr.startswith(f"Output file is part of the dataset: {named}\n")
    assert os.listdir("data") == ["test.jsonl"]  # noqa: PTH208


def test_an_earlier_report_may_be_replaced() -> None:
    words = ("doctor", "--only", "python", "--report", "bug.md")
    assert [grpo(*words).exit_code for _ in range(2)] == [0, 0]


def test_a_link_leads_where_its_owner_says_and_a_pipe_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk/x")
    OutputFile(Path("link"), force=False).write("text")
    assert (tmp_path / "disk/x").read_text() == "text" and (tmp_path / "link").is_symlink()
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    OutputFile(Path("pipe"), force=False).write("text")
    assert os.read(reader, 9) == b"text" and Path("pipe").is_fifo()


def test_paths_are_understood_as_a_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    OutputFile(Path("~/[v1] x"), force=False).write("text")
    assert (tmp_path / "[v1] x").read_text() == "text"
    with pytest.raises(ConfigError, match="Path not understood"):
        OutputFile(Path("$NOT_SET/x"), force=False)
    with pytest.raises(GrpoError, match="Is a directory"):
        OutputFile(tmp_path, force=False)


def test_the_cure_fits_what_stands_in_the_way() -> None:
    Path("file").write_text("")
    with pytest.raises(GrpoError, match="No such file or directory\n\nhint: `mkdir -p 'new folder/a'` makes"):
        OutputFile(Path("new folder/a/all.jsonl"), force=False)
    with pytest.raises(GrpoError, match="Not a directory\n\nhint: choose a file in a writable folder"):
        OutputFile(Path("file/a/all.jsonl"), force=False)


def test_ctrl_c_in_an_evaluation_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    words = ["eval", "--model", "tiny", "--samples", "0", "--num-generations", "8", "--output", "all.jsonl"]
    process = start(
        ["-c", INTERRUPTED, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, complaint = process.communicate(timeout=HANG)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint and list(tmp_path.iterdir()) == []


# The evaluation interrupts itself at its first progress: no test waits for a number of seconds.
INTERRUPTED = """
import os, signal
from grpo_cli.engine.evaluation import evaluate
real = evaluate.evaluate_model
def evaluate_model(name, config, sampling, num_generations, on_progress, world, told):
    def progress(*numbers):
        os.kill(os.getpid(), signal.SIGINT)
        on_progress(*numbers)
    return real(name, config, sampling, num_generations, progress, world, told)
evaluate.evaluate_model = evaluate_model
from grpo_cli.cli.main import run as main
main()
"""
