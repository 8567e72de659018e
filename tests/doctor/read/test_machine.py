"""This machine, really asked: a probe that hangs, dies or meets modules of other names."""

from pathlib import Path

import pytest

from grpo_cli.doctor.read.machine import Machine, answers_in, judged
from tests.support.waiting import slowness


def test_a_process_that_dies_says_where() -> None:
    printed = b'{"stage": "import mlx"}\n{"mlx": "0.32.4"}\n{broken\nnoise\n{"stage": "product"}\n[1]\n'
    answers = answers_in(printed)
    assert answers == {"mlx": "0.32.4", "stage": "product"}
    assert judged(answers, 0, "") == answers
    assert judged(answers, -11, "")["error"] == "killed by signal 11 (SIGSEGV)"
    assert judged(answers, -11, "")["failed"] == "product"
    assert judged({}, 1, "Traceback\nImportError: x") == {"failed": "start", "error": "ImportError: x"}
    assert judged(answers | {"error": "E: y"}, 1, "other")["error"] == "E: y"


def test_a_probe_without_end_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: an mlx that says something, then never comes back."""
    seconds = round(2 * slowness())
    monkeypatch.setattr("grpo_cli.doctor.read.machine.PROBE_SECONDS", seconds)
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx/__init__.py").write_text("")
    hanging = 'import time\nprint(\'{"stage": "product"}\', flush=True)\ntime.sleep(3600)\n'
    (tmp_path / "mlx/core.py").write_text(hanging)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = Machine().probe()
    assert (answers["failed"], answers["error"]) == ("product", f"not finished after {seconds} s")


def test_modules_of_the_current_folder_do_not_disturb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "tokenizers.py").write_text("raise ValueError\n")
    monkeypatch.chdir(tmp_path)
    assert Machine().probe()["stage"] == "done"
