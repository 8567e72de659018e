"""A run reported to one real tracker, interrupted after its checkpoint and resumed to its end."""

from pathlib import Path

import pytest

from grpo_cli.engine import events
from grpo_cli.engine.resume import resume
from grpo_cli.engine.train import train
from grpo_cli.trackers import report
from tests.support.small_runs import lines, small

QUICK = {
    "num_generations": 4, "batch_size": 2, "max_steps": 4, "save_steps": 2, "max_new_tokens": 12,
    "eval_steps": 4, "eval_samples": 4, "log_completions": 2,
}  # fmt: skip
STEPS = [1, 2, 3, 4]


def tracked(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, float], list[str]]:
    """The mean reward of each step by its log, and the notices. The run is in folder/run."""
    notices: list[str] = []
    for name_of_limit in ("FAILED_SECONDS", "CLOSING_SECONDS"):
        monkeypatch.setattr(
            report, name_of_limit, 180.0
        )  # opening a tracker can take a minute on a busy machine

    def interrupted(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            notices.append(event.text)
        if isinstance(event, events.StepFinished) and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(folder, **QUICK, report_to=[name]), interrupted)
    resume(folder / "run" / "checkpoint-2")
    found = [line for line in lines(folder / "run") if "reward_mean" in line]
    return {line["step"]: line["reward_mean"] for line in found}, notices
