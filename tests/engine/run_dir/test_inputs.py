"""The inputs of a run, compared at its resume: what moved is found, what changed is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.checkpoint import write_manifest
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError
from tests.support.finished_runs import notices
from tests.support.one_step_runs import REWARD, trained


def test_data_that_moved_is_compared_by_its_content(place: Path) -> None:
    run_dir = trained(place)
    (place / "data").rename(place / "elsewhere")
    resume(run_dir, ["max_steps=2", "dataset=elsewhere"])
    (place / "elsewhere/train.jsonl").write_text('{"question": "other", "answer": "1", "hint": ""}\n')
    with pytest.raises(CheckpointError, match="differ from those that the run"):
        resume(run_dir, ["max_steps=3"])


# --- changed ------------------------------------------------------------------------------------------


def reward(place: Path, _: Path) -> str:
    (place / "r.py").write_text(REWARD.replace("len(h)", "2 * len(h)"))
    return "reward file r.py"


def column(place: Path, _: Path) -> str:
    file = place / "data/train.jsonl"
    file.write_text(file.read_text().replace("odd", "uneven"))
    return "training examples"


def gold(place: Path, _: Path) -> str:
    file = place / "data/test.jsonl"
    file.write_text(file.read_text().replace('"answer": "1"', '"answer": "7"'))
    return "evaluation examples"


def weight(_: Path, run_dir: Path) -> str:
    file = run_dir / "config.toml"
    file.write_text(file.read_text().replace("reward_weights = []", "reward_weights = [2.0]"))
    return "reward_weights"


def base(place: Path, _: Path) -> str:
    file = place / "base [v1]/model.safetensors"
    weights: Any = mx.load(str(file))
    first = min(weights)
    mx.save_safetensors(str(file), {**weights, first: weights[first] + 1e-3})
    return "base weights"


@pytest.mark.parametrize("change", [reward, column, gold, weight, base])
def test_what_makes_numbers_incomparable_needs_a_yes(
    place: Path, change: Callable[[Path, Path], str]
) -> None:
    run_dir = trained(place, **({"lora_rank": 2} if change is base else {}))
    name = change(place, run_dir)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    with pytest.raises(CheckpointError) as error:
        resume(run_dir, ["max_steps=2"])
    assert error.value.message.endswith(f"would not be comparable, because something changed since: {name}")
    assert f"`grpo resume '{run_dir}' --accept-changes`" in error.value.hint
    assert {path: path.stat().st_mtime_ns for path in before} == before
    seen: list[str] = []
    resume(run_dir, ["max_steps=2"], lambda e: seen.append(str(e)), accept_changes=True)
    assert any(name in text for text in seen)
    resume(run_dir, ["max_steps=3"])  # the yes is remembered


def test_an_edited_key_is_said_and_a_set_is_a_yes(place: Path) -> None:
    run_dir = trained(place)
    file = run_dir / "config.toml"
    file.write_text(file.read_text().replace("learning_rate = 0.0001", "learning_rate = 0.0002"))
    said, _ = notices(run_dir, "max_steps=2", "reward_weights=[3.0]", "eval_samples=3")
    assert "config.toml was edited: learning_rate = 0.0002 instead of 0.0001" in said
    assert not [text for text in said if "edited: reward_weights" in text]


@pytest.mark.parametrize(("changes", "base"), [({}, set()), ({"kl_coeff": 0.1}, {"base weights"})])
def test_a_run_without_checksums_goes_on_and_has_them_then(
    place: Path, changes: dict[str, Any], base: set[str]
) -> None:
    run_dir = trained(place, **changes)
    state, final = run_dir / "final/trainer_state.json", run_dir / "final"
    content = json.loads(state.read_text())
    del content["inputs"]
    state.write_text(json.dumps(content))
    (final / "manifest.json").unlink()
    write_manifest(final, 1)
    reward(place, run_dir)  # nobody can know
    resumed = read_state(resume(run_dir, ["max_steps=2"]))[0]
    known = {"reward file r.py", "training examples", "evaluation examples"}
    assert (resumed.step, resumed.inputs.keys()) == (2, known | base)
