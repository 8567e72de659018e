"""End a run by every exception that Python has, in every place, and by signals; resume it; compare.

    uv run python -m tests.bench.endings                    # all: minutes
    uv run python -m tests.bench.endings --sample 20 --seed 3

After each ending the last whole step must be saved, the exit code and the words be right, and the resumed run
must have, byte for byte, the weights, the optimizer's state and the log of one that was left alone.
"""

import argparse
import contextlib
import io
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from grpo_cli.cli import live
from grpo_cli.cli.main import run as grpo
from grpo_cli.engine.events import RolloutProgress, StepFinished, UpdateProgress
from grpo_cli.engine.run_dir import checkpoint, saver
from grpo_cli.engine.run_dir import log as runlog
from grpo_cli.engine.run_dir.manifest import damage
from grpo_cli.engine.update import optimizer
from tests.bench.torture import log
from tests.support.exceptions import EXCEPTIONS, made
from tests.support.signals import signals_taken

STEPS = 4
REWARD = """
from tests.bench import endings

def letters(completions, **columns):
    endings.FAULT.meet("reward")
    return [sum(map(ord, text[0]["content"])) / 1000 for text in completions]
"""
SETTINGS = """
model_name = "tiny"
dataset = "arithmetic"
system_prompt = ""
completion_prefix = ""
reward_functions = ["{folder}/reward.py:letters"]
max_train_samples = 8
max_steps = {steps}
batch_size = 1
num_generations = 4
num_iterations = 2
max_new_tokens = 12
eval_steps = 0
save_steps = {every}
temperature = 1.5
learning_rate = 1e-4
output_dir = "{folder}/outputs"
run_name = "{name}"
"""
# What raises, at which of its calls, and the step that must be saved then.
PLACES = {"reward": (2, 2), "log": (3, 3), "saver": (1, 2), "optimizer": (4, 3), "display": (2, 2)}
SENT = {
    "INT": ([signal.SIGINT], 0),
    "TERM": ([signal.SIGTERM], 0),
    "HUP, told twice": ([signal.SIGHUP, signal.SIGHUP], 0),
    "INT twice": ([signal.SIGINT, signal.SIGINT], 1),  # the step is given up
    "HUP, then INT": ([signal.SIGHUP, signal.SIGINT], 1),
}
MOMENTS: dict[str, type] = {"rollout": RolloutProgress, "update": UpdateProgress}


class Fault:
    """Something that goes wrong once: at the `when`-th time that a run comes to `place`."""

    def __init__(self, place: str = "", when: int = 0, do: Callable[[], None] = lambda: None) -> None:
        self.place, self.when, self.do = place, when, do

    def meet(self, place: str) -> None:
        """A run comes to a place."""
        if place == self.place:
            self.when -= 1
            if self.when == 0:
                self.do()


FAULT = Fault()


@dataclass
class Case:
    """One way to end, and what must come of it."""

    name: str
    fault: Fault
    saved: int  # the step; 0: the run goes on to its end
    code: int
    words: str  # in what is said


def cases() -> Iterator[Case]:
    """All of them."""
    for (place, (when, saved)), name in itertools.product(PLACES.items(), EXCEPTIONS):
        yield broken(place, when, saved, name)
    for (moment, _), (name, (signals, lost)) in itertools.product(MOMENTS.items(), SENT.items()):

        def send(signals: list[signal.Signals] = signals) -> None:
            for number in signals:
                signal.raise_signal(number)

        step = 3
        yield Case(
            f"{name} in the {moment}", Fault(f"{moment} {step}", 1, send), step - lost, 130, "saved in"
        )


def broken(place: str, when: int, saved: int, name: str) -> Case:
    """The case of an exception in a place."""

    def fail() -> None:
        raise made(EXCEPTIONS[name])

    is_person = name == "KeyboardInterrupt"
    code, words = (130, "is saved in") if is_person else (1, name)
    if place == "reward":
        code, words = 1, f"Reward `letters` raised {name}"
    elif place == "display" and not is_person:
        saved, code, words = 0, 0, f"the progress display failed and is switched off: {name}"
    return Case(f"{name} from the {place}", Fault(place, when, fail), saved, code, words)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within the block a run meets its faults."""

    def before(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            FAULT.meet(place)
            return function(*arguments, **named)

        return wrapped

    done, show = 0, live.PlainDisplay.__call__

    def shown(display: live.PlainDisplay, event: Any) -> None:
        nonlocal done
        for moment, kind in MOMENTS.items():
            if isinstance(event, kind):
                FAULT.meet(f"{moment} {done + 1}")
        if isinstance(event, StepFinished):
            done = event.step
            FAULT.meet("display")
        show(display, event)

    with (
        mock.patch.object(runlog.RunLog, "step", before("log", runlog.RunLog.step)),
        mock.patch.object(saver, "save_checkpoint", before("saver", checkpoint.save_checkpoint)),
        mock.patch.object(optimizer.Optimizer, "step", before("optimizer", optimizer.Optimizer.step)),
        mock.patch.object(live.PlainDisplay, "__call__", shown),
    ):
        yield


def command(*words: str) -> tuple[int, str]:
    """The exit code of `grpo` with these words, run in this process, and what it said."""
    said = io.StringIO()
    with signals_taken(), contextlib.redirect_stderr(said), mock.patch.object(sys, "argv", ["grpo", *words]):
        try:
            grpo()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # what Python would print, and end with
            traceback.print_exc()
            code = 1
    return code, said.getvalue()


def start(folder: Path, name: str, every: int = 0) -> tuple[int, str]:
    """Begin a run."""
    (folder / "reward.py").write_text(REWARD)
    config = folder / f"{name}.toml"
    config.write_text(SETTINGS.format(folder=folder, steps=STEPS, every=every, name=name))
    return command("train", "--config", str(config))


def problems(folder: Path, case: Case) -> list[str]:
    """What is not as it must be after an ending; nothing if all is."""
    global FAULT
    FAULT = case.fault
    whole, run_dir = folder / "outputs" / "whole", folder / "outputs" / "broken"
    shutil.rmtree(run_dir, ignore_errors=True)
    with watched():
        code, said = start(folder, "broken", every=2 if case.fault.place == "saver" else 0)
    FAULT = Fault()
    found = [] if case.fault.when <= 0 else ["the run never came to it"]
    if code != case.code:
        found.append(f"exit code {code}, not {case.code}")
    if case.words not in said:
        found.append(f"it does not say {case.words!r} but: {said[-1500:]}")
    saved = run_dir / f"checkpoint-{case.saved}"
    if case.saved and (not saved.is_dir() or damage(saved)):
        return [*found, f"step {case.saved} is not saved: {sorted(path.name for path in run_dir.iterdir())}"]
    if case.saved:
        code, said = command("resume", str(run_dir), "--quiet")
        found += [f"resume ended with {code}: {said[-1500:]}"] if code else []
    return found + differences(whole, run_dir)


def differences(whole: Path, run_dir: Path) -> list[str]:
    """In which files a run is not the one that was left alone."""
    files = ("final/model.safetensors", "final/optimizer.safetensors", "completions.jsonl")
    try:
        found = [file for file in files if (whole / file).read_bytes() != (run_dir / file).read_bytes()]
        return found + ([] if log(whole) == log(run_dir) else ["training_log.jsonl"])
    except FileNotFoundError as error:
        return [str(error)]


def walk(folder: Path, chosen: list[Case]) -> dict[str, list[str]]:
    """What is wrong, by case."""
    code, said = start(folder, "whole")
    assert code == 0, said
    return {case.name: found for case in chosen if (found := problems(folder, case))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="so many cases, chosen by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    chosen, started = list(cases()), time.monotonic()
    if wanted.sample:
        chosen = random.Random(wanted.seed).sample(chosen, wanted.sample)
    with tempfile.TemporaryDirectory() as name:
        wrong = walk(Path(name), chosen)
    for case, found in wrong.items():
        print(f"{case}:", *found, sep="\n    ")
    print(
        f"{len(chosen)} endings: {len(chosen) - len(wrong)} saved, said and resumed byte for byte, "
        f"{len(wrong)} not; {time.monotonic() - started:.0f} s"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    sys.modules.setdefault("tests.bench.endings", sys.modules["__main__"])  # the reward imports it
    main()
