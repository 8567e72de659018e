"""The rollouts that a page shows: whole groups of some steps, and nothing from files that are damaged."""

from pathlib import Path

import pytest

from grpo_cli.report import rollouts
from grpo_cli.report.completions import completions_of
from grpo_cli.report.rollouts import chosen, rollout_lines
from tests.support.kept_rollouts import kept
from tests.support.report_runs import completion, run_of
from tests.support.run_logs import steps


def test_a_page_shows_whole_groups_with_their_tokens(tmp_path: Path) -> None:
    kept(tmp_path / "run", 2)
    lines = (completion(1, "one"), completion(2, "left out: the rollouts have it"))
    found = completions_of([run_of(tmp_path / "run", steps(2), lines)])
    assert [(row["step"], row.get("group")) for row in found["rows"]] == [
        (1, None), (2, 0.0), (2, 0.0), (2, 0.0), (2, 1.0), (2, 1.0), (2, 1.0),
    ]  # fmt: skip
    row = found["rows"][1]
    assert (row["text"], row["right"], row["lengths"], row["levels"]) == (
        "<answer>3</answer>",
        True,
        "819",
        "1k0",
    )
    assert (row["tokens"], row["rewards"], row["prompt"], found["all"]) == (4.0, {"right": 1.0}, 0, 7)
    assert "turns" not in row  # no environment took part


def test_a_group_is_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, 1, groups=3, count=4)
    for most, rows in ((12, 12), (11, 8), (8, 8), (7, 4), (3, 3)):
        monkeypatch.setattr(rollouts, "MOST_ROWS", most)
        assert len(rollout_lines(tmp_path)) == rows


def test_steps_at_equal_distances_the_last_one_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 8):
        (tmp_path / f"{step}").write_bytes(b"x" * 10)
    files = {step: tmp_path / f"{step}" for step in range(1, 8)}
    monkeypatch.setattr(rollouts, "MOST_STEPS", 4)
    assert chosen(files) == [1, 3, 5, 7]
    monkeypatch.setattr(rollouts, "MOST_READ", 25)
    assert chosen(files) == [3, 7]
    assert chosen({}) == []


def test_damaged_files_and_links_are_left_out(tmp_path: Path) -> None:
    kept(tmp_path, 1)
    (tmp_path / "rollouts/step-000002.parquet").write_bytes(b"PAR1 not a table PAR1")
    (tmp_path / "rollouts/step-000003.parquet").symlink_to(tmp_path / "rollouts/step-000001.parquet")
    assert {line["step"] for line in rollout_lines(tmp_path)} == {1}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/rollouts").symlink_to(tmp_path / "rollouts")
    assert rollout_lines(tmp_path / "run") == []
