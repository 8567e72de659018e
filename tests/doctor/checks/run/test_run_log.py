"""The log of a run: missing, broken or hostile, and metrics that are no numbers."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_logs import HEALTHY, NAMES, evaluation, examine, steps, troubles, written


def test_without_a_log_there_is_one_finding(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert troubles(found) == {"run-log": "warning"}
    assert list(found) == ["run-log"]
    assert (
        found["run-log"].seen
        == f"{tmp_path} holds no training_log.jsonl, so nothing can be said about its steps"
    )
    (tmp_path / "mine").mkdir()
    written(tmp_path / "mine", steps(1))
    assert examine(tmp_path)["run-log"].commands == (f"grpo doctor --run {tmp_path}/mine",)


def test_a_run_that_was_told_to_write_none_is_told_so(tmp_path: Path) -> None:
    written(tmp_path, [], log_jsonl=False)
    (tmp_path / "training_log.jsonl").unlink()
    found = examine(tmp_path)
    assert list(found) == ["run-log"]
    assert found["run-log"].seen == "the run wrote no log: log_jsonl = false"
    assert found["run-log"].commands == ("log_jsonl = true",)


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([], "no step is logged yet: training_log.jsonl is empty"),
        ([evaluation(0, 0.5)], "no step is logged yet: training_log.jsonl holds 1 evaluation"),
    ],
)
def test_a_run_without_steps_is_no_trouble(tmp_path: Path, lines: list[dict[str, Any]], seen: str) -> None:
    found = examine(written(tmp_path, lines))
    assert troubles(found) == {}
    assert found["run-log"].seen == seen
    assert set(found) <= {"run-log", "accuracy-flat"}


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_check_that_is_asked_for_says_why_it_did_not_look(tmp_path: Path, name: str) -> None:
    found = examine(tmp_path, (name,))
    assert [finding.severity for finding in found.values()] == ["skipped"]


def test_a_last_line_that_is_cut_off_is_harmless_and_another_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, steps(6)) / "training_log.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    found = examine(tmp_path)
    assert troubles(found) == {}
    assert found["run-log"].seen == "5 steps (1 to 5), 0 evaluations; its last line is cut off"
    path.write_text("no JSON\n" + whole + "[1, 2]\n" + whole)
    finding = examine(tmp_path)["run-log"]
    assert finding.severity == "warning"
    assert finding.seen == "2 of 14 lines are not JSON objects, the first of them line 1"
    assert finding.commands == (f"sed -n 1p {path}",)


HOSTILE: list[Any] = [
    None, True, "text", "\x1b[31m\n", [], {}, float("nan"), float("inf"), -1e308, 1e308, 10**400, -5, 0,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=[repr(value)[:12] for value in HOSTILE])
def test_any_value_in_place_of_a_number_is_survived(tmp_path: Path, value: Any) -> None:
    keys = [*HEALTHY, "skipped", "flags", "repetition", "rewards/\x1b[31mx"]
    lines = [{"step": step} | dict.fromkeys(keys, value) for step in range(1, 12)]
    broken = dict.fromkeys(evaluation(0, 0.0), value)
    texts = dict.fromkeys(("step", "prompt", "completion", "reward", "rewards", "tokens", "answer"), value)
    written(tmp_path, [broken, {"step": value, "loss": 1}, *lines, broken], (texts,) * 6)
    (tmp_path / "config.toml").write_text('learning_rate = "x"\n\x00')
    assert "run-log" in examine(tmp_path)
    negative = [*steps(6), *steps(6, step_seconds=-10.0)]
    assert list(examine(written(tmp_path, negative))) == NAMES
    for place, key in enumerate(HEALTHY):  # one at a time, in a healthy run
        rows = steps(12)
        rows[place % 12][key] = value
        assert list(examine(written(tmp_path, rows))) == NAMES


@pytest.mark.parametrize(
    "content",
    [b"\x00\xff\xfe" * 50, b"[" * 200_000, b"{}\n" * 20, b'null\n1\n"a"\n', b'{"loss": 1, "step": 1e400}\n'],
)
def test_any_bytes_are_survived(tmp_path: Path, content: bytes) -> None:
    for name in ("training_log.jsonl", "completions.jsonl", "config.toml"):
        (tmp_path / name).write_bytes(content)
    found = examine(tmp_path)
    assert list(found) == ["run-log"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_log_that_may_not_be_read_is_told_so(tmp_path: Path) -> None:
    path = written(tmp_path, steps(6)) / "training_log.jsonl"
    path.chmod(0)
    found = examine(tmp_path)
    assert troubles(found) == {"run-log": "error"}
    assert found["run-log"].seen == "training_log.jsonl cannot be read: Permission denied"


def test_a_completion_with_odd_line_separators_is_one_line(tmp_path: Path) -> None:
    odd = {"step": 1, "completion": "a\u2028b\x0bc", "reward": 0.0, "answer": "7"}
    written(tmp_path, steps(6, reward_mean=0.0, reward_std=0.0))
    (tmp_path / "completions.jsonl").write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = examine(tmp_path)["rewards-zero"].commands[-2]
    assert shown == "# 'step 1, reward 0, right answer 7: a b c'"


def test_names_in_commands_are_safe_to_paste(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    lines = steps(6, reward_mean=0.0, reward_std=0.0)
    command = examine(written(folder, lines, model_name="x; touch y"))["rewards-zero"].commands[-1]
    assert shlex.split(command)[:6] == [
        "grpo", "eval", "--model", "x; touch y", "--config", f"{folder}/config.toml",
    ]  # fmt: skip


def test_findings_hold_no_completion_where_a_report_would_show_it(tmp_path: Path) -> None:
    secret = ({"step": 1, "prompt": "PROMPT", "completion": "SECRET", "answer": "ANSWER", "reward": 0.0},)
    found = examine(written(tmp_path, steps(6, reward_mean=0.0, reward_std=0.0), secret))
    told = " ".join(f.seen + f.cure + f.why for f in map(replace, found.values()))
    assert not any(word in told for word in ("PROMPT", "SECRET", "ANSWER"))


def test_a_single_line_that_cannot_be_read_is_no_empty_log(tmp_path: Path) -> None:
    run = written(tmp_path, [])
    (run / "training_log.jsonl").write_text('{"step": 1, "a": [[[[')
    found = examine(run)["run-log"]
    assert found.seen == "no step is logged yet: training_log.jsonl holds no line that can be read"


def test_metrics_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    lines = steps(9, kl=float("nan"), loss=lambda s: float("inf") if s == 4 else 0.1)
    found = examine(written(tmp_path, lines, kl_coeff=0.04))
    assert troubles(found) == {"run-log": "warning"}
    log = found["run-log"]
    assert log.seen == "NaN or infinite in 2 metrics: kl in 9 lines, loss in 1 line"
    assert log.numbers["not_finite"] == {"kl": 9, "loss": 1}
    assert log.commands == (f"grep -nE 'NaN|Infinity' {tmp_path}/training_log.jsonl", "learning_rate = 2e-07")
    assert found["kl-high"].seen == "no logged KL is a finite number: see run-log and nan-gradient"
    some = examine(written(tmp_path, steps(9, kl=lambda s: 0.01 if s < 7 else float("nan")), kl_coeff=0.04))
    assert some["run-log"].seen == "NaN or infinite in 1 metric: kl in 3 lines"
    assert some["kl-high"].severity == "ok"
