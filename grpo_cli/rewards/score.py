"""Call the rewards on a batch of rollout groups and write the results into the rollouts.

    with Scorer(load_rewards(names), weights, timeout=60.0, workers=4, specs=names) as scorer:
        scorer.score(groups)
        pending = scorer.start(groups)      # or: begin, …
        pending.result()                    # … and write it into the rollouts later
        with scorer.overlapping(groups, 8) as pending:       # or: while they are being sampled
            pending.begin(2)                            # all 8 completions of the third group are complete

An `async def` reward runs on an event loop in its own thread, with the whole batch at once. A plain function
runs in this thread, in the order of the list, or, with `workers`, in processes that each get whole
groups. So a reward that compares the completions of a group returns the same values there. A judge, which
computes with MLX, stays in this thread.
During sampling, an `async def` gets whole groups as well, each as soon as its last completion ends. A
plain function in this thread would only delay sampling: it runs at the end, on the whole batch.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple

from grpo_cli.errors import RewardError
from grpo_cli.rewards.background import Background
from grpo_cli.rewards.call import PROBE_SECONDS, Scores, call, call_async, is_async, timed_out
from grpo_cli.rewards.notes import NAN_FRACTION, together
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.rewards.table import InThisThread, RewardFunction
from grpo_cli.rewards.workers import Workers
from grpo_cli.types import NOT_TRAINING, Rollout, RolloutGroup, TrainerState

Named = tuple[str, RewardFunction]


def score(
    rewards: Sequence[Named], weights: Sequence[float], groups: list[RolloutGroup], timeout: float = 0.0
) -> None:
    """Fill every rollout's `rewards` (by name) and `reward` (their weighted sum), in this process.

    Raises RewardError when a reward raises, or returns anything but a finite number, NaN or None per
    completion.
    """
    with Scorer(rewards, weights, timeout) as scorer:
        scorer.score(groups)


class Scorer:
    """The rewards of a run and their threads and processes, which start when first needed.

    `timeout`: time limit in seconds for an async reward, or one in a process, per batch or part of it; 0:
    none. A plain function in this thread cannot be stopped and has no limit. `specs`: the configuration's
    name of each reward, in the same order; processes load them by it.
    """

    def __init__(
        self,
        rewards: Sequence[Named],
        weights: Sequence[float],
        timeout: float = 0.0,
        workers: int = 0,
        specs: Sequence[str] = (),
    ) -> None:
        self.rewards = rewards
        self.weights = weights
        self.timeout = timeout
        self.worker_count = workers
        self.specs = specs
        self._background: Background | None = None
        self._workers: Workers | None = None

    def score(self, groups: list[RolloutGroup]) -> None:
        """Fill every rollout's `rewards` and `reward`. Raises RewardError as `score` above does."""
        with contextlib.redirect_stdout(sys.stderr):  # stdout is reserved for results, but a reward may print
            self.start(groups).result()

    def start(self, groups: list[RolloutGroup]) -> "PendingScores":
        """Start the rewards that do not need this thread."""
        request = RewardRequest.of(groups)
        pending = PendingScores(scorer=self, groups=groups)
        for place, (name, function) in enumerate(self.rewards if request.samples else ()):
            if is_async(function):
                pending.add(name, request, self._begin_async(name, function, request))
            elif self.worker_count and not isinstance(function, InThisThread):
                for start, stop in parts(groups, self.worker_count):  # one request per worker
                    part = request.part(start, stop)
                    pending.add(name, part, self._begin_in_worker(place, name, part))
        return pending

    @contextlib.contextmanager
    def overlapping(
        self, groups: list[RolloutGroup], size: int, state: TrainerState = NOT_TRAINING
    ) -> Iterator["PendingScores"]:
        """Score groups of `size` completions that are sampled within the block, from `begin(place)` on.

        At the end of the block all results are written into the rollouts. After an error nothing keeps
        running. Raises RewardError as `score` above does.
        """
        with contextlib.redirect_stdout(sys.stderr):
            pending = PendingScores(scorer=self, groups=groups, size=size, state=state)
            try:
                yield pending
            except BaseException:  # also Ctrl-C: nobody will collect the rewards
                self.close()
                raise
            pending.result()

    def begin_group(self, pending: "PendingScores", place: int) -> None:
        """Start the rewards of one group that do not need this thread."""
        request = pending.request_of(place)
        for number, (name, function) in enumerate(self.rewards):
            if is_async(function):
                pending.add(name, request, self._begin_async(name, function, request))
            elif self.worker_count and not isinstance(function, InThisThread):
                pending.add(name, request, self._begin_in_worker(number, name, request))

    def close(self) -> None:
        """Stop the processes and the event loop; they restart when needed."""
        background, self._background = self._background, None
        workers, self._workers = self._workers, None
        if background is not None:
            background.close()
        if workers is not None:
            workers.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin_async(self, name: str, function: RewardFunction, request: RewardRequest) -> Future[Scores]:
        self._background = self._background or Background()
        return self._background.start(call_async(name, function, request, self.timeout))

    def _begin_in_worker(self, number: int, name: str, request: RewardRequest) -> Future[Scores]:
        self._workers = self._workers or Workers(self.specs, self.worker_count, self.timeout)
        return self._workers.submit(number, name, request)


class Running(NamedTuple):
    """A pending result."""

    first: int  # position in the batch of its first completion
    started: float  # time.monotonic()
    future: Future[Scores]


@dataclass(kw_only=True)
class PendingScores:
    """A batch whose rewards are being computed."""

    scorer: Scorer
    groups: list[RolloutGroup]
    size: int = 0  # completions per group, if they are still being sampled
    state: TrainerState = NOT_TRAINING
    running: dict[str, list[Running]] = field(default_factory=dict)
    # Values passed to log_metric, and `nan_fraction/<reward>`: 1 for each NaN that a reward returned.
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def begin(self, place: int) -> None:
        """Start the rewards of the group at this position: all its completions are finished."""
        self.scorer.begin_group(self, place)

    def request_of(self, place: int) -> RewardRequest:
        """The completions of one group, with their positions in the batch."""
        request = RewardRequest.of([self.groups[place]], self.state)
        return replace(request, first=place * self.size, total=len(self.groups) * self.size)

    def add(self, name: str, request: RewardRequest, future: Future[Scores]) -> None:
        """Record a pending result."""
        self.running.setdefault(name, []).append(Running(request.first, time.monotonic(), future))

    def result(self) -> None:
        """Compute the rest in this thread, wait for pending results, and write all into the rollouts.

        Raises RewardError: of a plain reward in this thread first, then of the others in the order of the
        list, each in the order of the completions. After an error nothing keeps running.
        """
        request = RewardRequest.of(self.groups, self.state)
        try:
            scores = self._scores(request) if request.samples else {}
        except BaseException:  # also Ctrl-C: nobody will collect the rest
            self.scorer.close()
            raise
        self.metrics = together(one.notes.metrics for parts in scores.values() for one in parts)
        self.metrics |= {
            f"{NAN_FRACTION}{name}": [float(is_nan) for one in parts for is_nan in one.notes.is_nan]
            for name, parts in scores.items()
        }
        write(self.groups, scores, self.scorer.weights)

    def _scores(self, request: RewardRequest) -> dict[str, list[Scores]]:
        """Reward name → scores of each part of the batch, both in order."""
        here = {
            name: [call(name, function, request)]
            for name, function in self.scorer.rewards
            if name not in self.running
        }
        elsewhere = {
            name: [self._wait(name, running) for running in sorted(self.running[name])]
            for name, _ in self.scorer.rewards
            if name in self.running
        }
        scores = here | elsewhere
        return {name: scores[name] for name, _ in self.scorer.rewards}

    def _wait(self, name: str, running: Running) -> Scores:
        """Wait for a result. An async reward that blocks its loop cannot be cancelled; it is abandoned."""
        timeout, future = self.scorer.timeout, running.future
        is_blockable = is_async(dict(self.scorer.rewards)[name])
        if not (timeout and is_blockable):
            return future.result()
        latest = running.started + timeout + PROBE_SECONDS + 1.0
        try:
            return future.result(max(0.0, latest - time.monotonic()))
        except TimeoutError as error:
            blocked: RewardError = timed_out(name, timeout)
            blocked.hint += "; it blocks its event loop: `await` slow calls, or write a plain function"
            raise blocked from error


def parts(groups: list[RolloutGroup], count: int) -> list[tuple[int, int]]:
    """Split a batch into at most `count` parts of whole groups: (start, stop) of their completions."""
    ends = [0]
    for group in groups:
        ends.append(ends[-1] + len(group.rollouts))
    cuts = [ends[number * len(groups) // count] for number in range(count + 1)]
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]


def write(
    groups: list[RolloutGroup], scores: Mapping[str, Sequence[Scores]], weights: Sequence[float]
) -> None:
    """Fill each rollout's `rewards` (by name), `reward`, and logged extras.

    The reward is the weighted sum of those that apply, like TRL's nansum. If none applies it is 0 and the
    rollout's `score` is None.
    """
    values = {name: [value for part in parts for value in part.values] for name, parts in scores.items()}
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    for index, rollout in enumerate(rollouts):
        rollout.rewards = {name: values[name][index] for name in values}
        applied = zip(weights, rollout.rewards.values(), strict=True)
        rollout.reward = sum((weight * value for weight, value in applied if value is not None), 0.0)
    for parts in scores.values():
        keep_extras(rollouts, parts)


def keep_extras(rollouts: Sequence[Rollout], parts: Sequence[Scores]) -> None:
    """Store one reward's logged extras in each rollout."""
    first = 0
    for values, notes in parts:
        for column, found in notes.extras.items():
            for rollout, value in zip(rollouts[first : first + len(values)], found, strict=True):
                rollout.extra[column] = value
        first += len(values)
