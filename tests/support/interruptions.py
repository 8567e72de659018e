"""Runs that end before their last step: by a crash inside a step, or as Ctrl-C ends them."""

import os
import shutil
import signal

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.train import train


class Stop(KeyboardInterrupt):
    """Ends a run in the middle of a step. A listener that raises anything else is dropped."""


def crash_after(step: int) -> events.Listener:
    """A listener that crashes in the rollouts of the step after this one."""
    done = 0

    def listen(event: events.Event) -> None:
        nonlocal done
        if isinstance(event, events.StepFinished):
            done = event.step
        if isinstance(event, events.RolloutProgress | events.UpdateProgress) and done == step:
            raise Stop

    return listen


def crash(config: Config, step: int) -> None:
    """Kill a run in the step after this one: what a rescue saves of it is gone."""
    with pytest.raises(Stop):
        train(config, crash_after(step))
    if not config.save_steps or step % config.save_steps:
        shutil.rmtree(config.run_dir / f"checkpoint-{step}")


def interrupt_after(step: int) -> events.Listener:
    """A listener that asks for the end, as Ctrl-C does, once this step is done."""

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return listen
