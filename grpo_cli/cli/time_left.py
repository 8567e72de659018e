"""Seconds until a training run ends: its steps, evaluations and saves still to come.

Each kind of work is estimated by the mean of its latest durations. Work in progress counts down to 0, and a
delay does not reduce the time of later work. Saves are not estimated before the first one.
"""

import statistics
from collections import deque
from collections.abc import Callable

from grpo_cli.cli.figures import number
from grpo_cli.engine.events import RunStarted

AVERAGED = 20  # latest measurements of each kind
STEP, EVALUATION, SAVE = "step", "evaluation", "save"


class TimeLeft:
    """Estimate of a run's remaining time. Call `did` at the end of each piece of work; `clock` counts
    seconds.
    """

    def __init__(self, run: RunStarted, clock: Callable[[], float]) -> None:
        self.run, self.clock, self.marked = run, clock, clock()
        evaluated = run.evaluations[-1]["step"] if run.evaluations else -1
        # Last step after which each kind was done.
        self.done = {STEP: run.resumed_at, EVALUATION: evaluated, SAVE: run.resumed_at}
        before = [seconds for line in run.evaluations if (seconds := number(line, "eval_seconds"))]
        self.measured = {kind: deque[float](maxlen=AVERAGED) for kind in self.done}
        self.measured[EVALUATION].extend(before)

    def did(self, kind: str, step: int) -> None:
        """Record the end of a piece of work, after this many steps of the run."""
        now = self.clock()
        self.measured[kind].append(now - self.marked)
        self.marked, self.done[kind] = now, step

    def seconds(self, evaluated: float = 0.0) -> float | None:
        """Seconds until the run's last save; None before this part's first step is measured.

        `evaluated`: the finished fraction of the current evaluation, which shows if it is late.
        """
        if not self.measured[STEP]:
            return None
        step = self.done[STEP]
        ahead = {kind: self.ahead(kind, max(step - 1, done)) for kind, done in self.done.items()}
        due_now = (kind for kind in (EVALUATION, SAVE) if ahead[kind] > self.ahead(kind, step))
        under_way = next(due_now, STEP if ahead[STEP] else SAVE)
        usual, spent = self.mean(under_way), self.clock() - self.marked
        rest = max(0.0, usual - spent)
        if under_way == EVALUATION and not rest and evaluated:
            rest = min(usual, spent * (1.0 - evaluated) / evaluated)
        return sum(count * self.mean(kind) for kind, count in ahead.items()) - usual + rest

    def ahead(self, kind: str, since: int) -> int:
        """The number of pieces of a kind after step `since`: as often as configured, and at the end."""
        total = self.run.total_steps
        every = {STEP: 1, EVALUATION: self.run.eval_steps, SAVE: self.run.save_steps}[kind]
        regular = total // every - since // every if every else 0
        if kind == EVALUATION:
            return regular + (every > 0 and total % every > 0 and since < total)
        return regular + (kind == SAVE)  # the final one, in addition to a save after the last step

    def mean(self, kind: str) -> float:
        """Mean seconds per piece of a kind; 0 while unknown."""
        return statistics.fmean(self.measured[kind]) if self.measured[kind] else 0.0
