"""Ctrl-C during a run: the step is finished and saved, and the notice names the command that resumes."""

import os
import signal
import time
from pathlib import Path

import pytest

from grpo_cli.config.render import dump_config
from grpo_cli.engine import events
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.train import train
from tests.support.small_runs import SHORT, small


@pytest.mark.parametrize(
    ("signals", "is_urgent"),
    [
        ([(signal.SIGTERM, 0.0), (signal.SIGTERM, 0.9)], False),  # one request, told by systemd and a parent
        ([(signal.SIGTERM, 0.0), (signal.SIGTERM, 1.1)], True),
        ([(signal.SIGINT, 0.0), (signal.SIGINT, 0.1)], True),  # a person's second Ctrl-C
        ([(signal.SIGINT, 0.0), (signal.SIGTERM, 0.1)], True),
    ],
)
def test_a_second_sigterm_within_a_second_is_the_first_one_again(
    signals: list[tuple[int, float]], is_urgent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    interruption = Interruption()
    for number, moment in signals:
        monkeypatch.setattr(time, "monotonic", lambda now=moment: now)
        interruption._take(number, None)
    assert (interruption.requested, interruption.is_urgent) == (True, is_urgent)


def test_an_interruption_is_told_with_the_command_that_goes_on(tmp_path: Path) -> None:
    seen: list[str] = []
    steps = [0]

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished):
            steps.append(event.step)
        elif isinstance(event, events.RolloutProgress) and steps == [0, 1]:
            steps.append(-1)  # once
            os.kill(os.getpid(), signal.SIGINT)
        elif isinstance(event, events.Notice):
            seen.append(event.text)

    config = small(tmp_path, **SHORT)
    with pytest.raises(KeyboardInterrupt) as ended:
        train(config, listen)
    folder = config.run_dir
    assert seen == ["Stopping after step 2 (saving…). Press Ctrl-C again to quit now."]
    assert str(ended.value) == "Stopped after step 2."
    assert ended.value.__notes__ == [
        f"Step 2 is saved in {folder / 'checkpoint-2'}.",
        f"Resume with: `grpo resume {folder}`",
    ]
    assert dump_config(config) == (folder / "config.toml").read_text()
