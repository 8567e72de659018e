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
        ahead = {kind: self.ahead(kind, self.since(kind)) for kind in self.done}
        return self.duration_of(ahead, evaluated)

    def until(self, kind: str, evaluated: float = 0.0) -> float | None:
        """Seconds until the next evaluation or save begins; 0 while it is made, None if unknown or none."""
        step = self.next(kind)
        if step is None or (step > self.done[STEP] and not self.measured[STEP]):
            return None
        ends = {STEP: step, EVALUATION: step if kind == SAVE else step - 1, SAVE: step - 1}
        return self.duration_of(
            {each: self.pieces(each, self.since(each), ends[each]) for each in ends}, evaluated
        )

    def next(self, kind: str) -> int | None:
        """The step after which the next evaluation or save is made; None if there is none."""
        total, every, since = self.run.total_steps, self.every(kind), self.since(kind)
        if kind == EVALUATION and (not every or since >= total):
            return None
        return min((since // every + 1) * every, total) if every else total

    def since(self, kind: str) -> int:
        """The step after which no piece of a kind is due any more."""
        return max(self.done[STEP] - 1, self.done[kind])

    def duration_of(self, pieces: dict[str, int], evaluated: float) -> float:
        """Seconds that so many pieces of each kind still take; the current one is partly done."""
        ahead = {kind: self.ahead(kind, self.since(kind)) for kind in (EVALUATION, SAVE)}
        due_now = (kind for kind in ahead if ahead[kind] > self.ahead(kind, self.done[STEP]))
        under_way = next(due_now, STEP if self.ahead(STEP, self.done[STEP]) else SAVE)
        whole = sum(count * self.mean(kind) for kind, count in pieces.items())
        if not pieces[under_way]:
            return whole
        usual, spent = self.mean(under_way), self.clock() - self.marked
        rest = max(0.0, usual - spent)
        if under_way == EVALUATION and not rest and evaluated:
            rest = min(usual, spent * (1.0 - evaluated) / evaluated)
        return whole - usual + rest

    def every(self, kind: str) -> int:
        """The interval of a kind of work in steps; 0 = never, or only at the end."""
        return {STEP: 1, EVALUATION: self.run.eval_steps, SAVE: self.run.save_steps}[kind]

    def ahead(self, kind: str, since: int) -> int:
        """The number of pieces of a kind after step `since`, until the run's end with its final save."""
        return self.pieces(kind, since, self.run.total_steps) + (kind == SAVE)

    def pieces(self, kind: str, since: int, end: int) -> int:
        """The number of pieces after step `since`, up to that after `end`: as often as configured.

        The last step is also evaluated if it is no multiple of `eval_steps`.
        """
        total, every = self.run.total_steps, self.every(kind)
        if not every or end <= since:
            return 0
        is_last = kind == EVALUATION and total % every > 0 and since < total <= end
        return end // every - since // every + is_last

    def mean(self, kind: str) -> float:
        """Mean seconds per piece of a kind; 0 while unknown."""
        return statistics.fmean(self.measured[kind]) if self.measured[kind] else 0.0
