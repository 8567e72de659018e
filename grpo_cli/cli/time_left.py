"""Seconds until a training run ends: its steps, evaluations and saves still to come.

Each kind by the mean of the latest that were measured. What is under way counts down to nothing, and what is
late takes no time from what comes after it. Of saves there is no guess before the first one.
"""

import statistics
from collections import deque
from collections.abc import Callable

from grpo_cli.cli.figures import number
from grpo_cli.engine.events import RunStarted

AVERAGED = 20  # of each kind, the latest
STEP, EVALUATION, SAVE = "step", "evaluation", "save"


class TimeLeft:
    """The time that a run still takes. `did` whatever ends, at its end; `clock` counts seconds."""

    def __init__(self, run: RunStarted, clock: Callable[[], float]) -> None:
        self.run, self.clock, self.marked = run, clock, clock()
        evaluated = run.evaluations[-1]["step"] if run.evaluations else -1
        # The step after which each kind was last done.
        self.done = {STEP: run.resumed_at, EVALUATION: evaluated, SAVE: run.resumed_at}
        before = [seconds for line in run.evaluations if (seconds := number(line, "eval_seconds"))]
        self.measured = {kind: deque[float](maxlen=AVERAGED) for kind in self.done}
        self.measured[EVALUATION].extend(before)

    def did(self, kind: str, step: int) -> None:
        """Something of a kind has just ended, after this many steps of the run."""
        now = self.clock()
        self.measured[kind].append(now - self.marked)
        self.marked, self.done[kind] = now, step

    def seconds(self, evaluated: float = 0.0) -> float | None:
        """Seconds until the run's last save is made; None before this part's first step is measured.

        `evaluated`: the share of the evaluation under way that is done, which tells where it is late.
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
        """How many of a kind come after steps above `since`: as often as configured, and at the end."""
        total = self.run.total_steps
        every = {STEP: 1, EVALUATION: self.run.eval_steps, SAVE: self.run.save_steps}[kind]
        regular = total // every - since // every if every else 0
        if kind == EVALUATION:
            return regular + (every > 0 and total % every > 0 and since < total)
        return regular + (kind == SAVE)  # the final one, whatever was saved after the last step

    def mean(self, kind: str) -> float:
        """Seconds that one of a kind takes; 0 while unknown."""
        return statistics.fmean(self.measured[kind]) if self.measured[kind] else 0.0
