"""Every choice of a kernel: the same weights to rounding, exact resumption, and a notice where it changes."""

import json
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_cli import device
from grpo_cli.engine import events, kernels
from grpo_cli.engine.kernels import FAILED, LOSS, changed_kernels
from grpo_cli.engine.resume import keep_kernels, resume
from tests.support.kernel_choices import (
    CHOICES,
    CONFIGURED,
    arrays,
    largest_difference,
    resumes_exactly,
    trained,
)
from tests.support.shallow_model import shallow_model

pytestmark = pytest.mark.skipif(device.prepare().kind != "cpu", reason="the choices are those of a CPU")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps with the choices as they are."""
    folder = tmp_path_factory.mktemp("plain")
    assert resumes_exactly(trained(folder, 2, model_name=shallow_model()))
    return folder


@pytest.mark.parametrize("choice", [*CHOICES, *CONFIGURED])
def test_a_choice_changes_nothing_but_rounding(
    choice: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CHOICES.get(choice, lambda _: None)(monkeypatch)
    trained(tmp_path, 2, model_name=shallow_model(), **CONFIGURED.get(choice, {}))
    assert largest_difference(arrays(tmp_path), arrays(plain)) < 1e-5


def test_a_run_with_every_choice_changed_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone: `python -m tests.bench.kernels`."""
    for turn in CHOICES.values():
        turn(monkeypatch)
    assert resumes_exactly(trained(tmp_path, 2, model_name=shallow_model()))


def test_the_state_holds_the_choices(plain: Path) -> None:
    state = json.loads((plain / "run" / "checkpoint-1" / "trainer_state.json").read_text())
    choices, blas = state["kernels"], device.prepare().blas
    assert blas is not None
    assert choices["BLAS"].startswith(f"{blas.name} {blas.version}")
    assert choices["optimizer"] == "ChunkedAdamW"
    assert (choices["sampled prompts"], choices["trained prompts"]) == ("grouped", "shared")
    assert choices[LOSS] == "plain"


def test_changed_choices() -> None:
    before = {"BLAS": "openblas 0.3.29, 2 threads", "device": "AMD EPYC (cpu)", "gone": "1"}
    now = {"BLAS": "mlx", "device": "AMD EPYC (cpu)", "new": "2"}
    assert changed_kernels(before, now) == ["BLAS: openblas 0.3.29, 2 threads → mlx"]


def resumed(before: dict[str, str], now: dict[str, str], compiled: Any = None) -> list[str]:
    """The notices of a run that is resumed with other choices."""
    told: list[Any] = []
    run: Any = SimpleNamespace(state=SimpleNamespace(kernels=before), kernels=now, compiled=compiled)
    keep_kernels(run, told.append)
    assert all(isinstance(event, events.Notice) for event in told)
    return [event.text for event in told]


def test_a_resumed_run_tells_other_choices_in_one_notice() -> None:
    before = {"BLAS": "openblas 0.3.29, 2 threads", "mlx": "0.32.2"}
    assert resumed({}, before) == resumed(before, before) == []
    assert resumed(before, {"BLAS": "openblas 0.3.30, 2 threads", "mlx": "0.32.4"}) == [
        "kernels differ from the checkpoint's, so results are the same to rounding: BLAS: openblas 0.3.29, 2 "
        "threads → openblas 0.3.30, 2 threads; mlx: 0.32.2 → 0.32.4"
    ]


def test_a_compilation_that_failed_is_not_tried_again() -> None:
    failed, compiled, moved = (SimpleNamespace(is_off=False) for _ in range(3))
    here, there = {"device": "H200 (cuda)", "mlx": "0.32.4"}, {"device": "H200 (cuda)", "mlx": "0.33.0"}
    resumed({LOSS: FAILED, **here}, {LOSS: "compiled", **here}, failed)
    resumed(
        {LOSS: "plain", **here}, {LOSS: "compiled", **here}, compiled
    )  # `use_compile` was set by the user
    resumed({LOSS: FAILED, **here}, {LOSS: "compiled", **there}, moved)  # a new MLX may compile it
    assert (failed.is_off, compiled.is_off, moved.is_off) == (True, False, False)


def test_another_version_is_told(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again, told = tmp_path / "run", []
    shutil.copytree(plain / "run", again, ignore=shutil.ignore_patterns("final", "checkpoint-2"))
    monkeypatch.setattr(kernels, "version", lambda name: f"9.9 of {name}")
    resume(again, [], lambda event: told.append(getattr(event, "text", "")))
    mine = metadata.version("mlx")
    assert [f"mlx: {mine} → 9.9 of mlx" in text for text in told if "to rounding" in text] == [True]
