"""A run and its trackers: what they get, across a resume too, and that none of them changes the weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_cli.config.tracker_names import PACKAGES
from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.train import train
from grpo_cli.errors import TrainingError
from grpo_cli.trackers import report
from grpo_cli.trackers.protocol import OpenTracker, State
from grpo_cli.trackers.report import TRACKERS, completions, verdict
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.support.fake_trackers import Fakes, hanging, raising, refusing
from tests.support.small_runs import lines, small, weights

QUICK = {"num_generations": 4, "batch_size": 2, "max_steps": 4, "save_steps": 2, "max_new_tokens": 12}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Trackers in the place of wandb."""
    made = Fakes()
    monkeypatch.setitem(PACKAGES, "wandb", "json")
    monkeypatch.setitem(TRACKERS, "wandb", made.keeping)
    yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run without trackers."""
    folder = tmp_path_factory.mktemp("alone")
    train(small(folder, **QUICK))
    return weights(folder / "run")


def test_a_run_is_reported(tmp_path: Path, fakes: Fakes, alone: bytes) -> None:
    config = small(tmp_path, **QUICK, eval_steps=4, eval_samples=4, report_to=["wandb"], log_completions=3)
    train(config)
    (kept,) = fakes.opened
    log = lines(tmp_path / "run")
    assert kept.steps == [0, 1, 2, 3, 4, 4] == [line["step"] for line in log]
    rewards = [line["reward_mean"] for line in log if "reward_mean" in line]
    assert [values["train/reward"] for values in kept.values if "train/reward" in values] == rewards
    assert kept.opening.config["seed"] == 0 and kept.opening.config["max_steps"] == 4
    assert kept.opening.name == "run"
    assert [(step, len(table.rows)) for step, table in kept.tables] == [(step, 3) for step in (1, 2, 3, 4)]
    assert kept.ended is not None and kept.ended[0] is State.FINISHED
    before, after = log[0]["eval_accuracy"], log[-1]["eval_accuracy"]
    assert kept.ended[1]["eval/accuracy_last"] == after
    assert kept.ended[1]["verdict"] == f"accuracy {100 * before:.1f} → {100 * after:.1f} % in 4 steps"
    assert weights(tmp_path / "run") == alone


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("open_tracker", [hanging, raising, refusing])
def test_a_broken_tracker_changes_nothing(
    open_tracker: OpenTracker, tmp_path: Path, alone: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", open_tracker)
    monkeypatch.setattr(report, "CLOSING_SECONDS", 0.5)
    heard: list[events.Event] = []
    train(small(tmp_path, **QUICK, report_to=["wandb"]), heard.append)
    assert weights(tmp_path / "run") == alone
    told = [event.text for event in heard if isinstance(event, events.Notice)]
    assert len([text for text in told if text.startswith("wandb ")]) == 1


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path, fakes: Fakes) -> None:
    def stop(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(tmp_path, **QUICK, report_to=["wandb"]), stop)
    resume(tmp_path / "run" / "checkpoint-2")
    first, second = fakes.opened
    assert first.ended is not None and first.ended[0] is State.INTERRUPTED
    assert second.opening.run_id == first.run_id
    assert [*first.steps, *second.steps] == [1, 2, 3, 4] and len(first.steps) in (2, 3)
    resume(tmp_path / "run" / "checkpoint-2", ["learning_rate=1e-3"])
    assert fakes.opened[2].run_id != first.run_id  # it goes another way from step 2 on
    assert fakes.opened[2].steps == [3, 4]


def test_a_failed_run_says_so(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TrainingError("it broke")

    monkeypatch.setattr("grpo_cli.engine.train.stop_if_broken", broken)
    with pytest.raises(TrainingError):
        train(small(tmp_path, **QUICK, report_to=["wandb"]))
    assert fakes.opened[0].ended == (State.FAILED, {"verdict": "failed"})


def test_completions_are_taken_from_the_groups_in_turn() -> None:
    def rollout(text: str, reward: float | None) -> Rollout:
        return Rollout(
            token_ids=[1], logprobs=[0.0], entropies=[0.0], stop_reason=StopReason.EOS, text=text,
            rewards={"right": reward}, advantage=0.5,
        )  # fmt: skip

    def group(name: str) -> RolloutGroup:
        example = Example(messages=[{"role": "user", "content": name}], answer="")
        return RolloutGroup(example, [1], [rollout(f"{name}1", 1.0), rollout(f"{name}2", None)])

    table = completions([group("a"), group("b")], 3)
    assert table.columns == ["prompt", "completion", "right", "advantage", "stop_reason"]
    assert table.rows == [
        ["user: a", "a1", 1.0, 0.5, "eos"],
        ["user: b", "b1", 1.0, 0.5, "eos"],
        ["user: a", "a2", None, 0.5, "eos"],
    ]
    assert completions([group("a")], 0).rows == []


def test_the_verdict_of_a_run_without_evaluations() -> None:
    end = events.RunFinished(
        run_dir=Path("r"), final=Path("r/final"), steps=7, seconds=2.5, first=None, last=None
    )
    assert verdict(end) == {"steps": 7, "seconds": 2.5, "verdict": "7 steps"}
