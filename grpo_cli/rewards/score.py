"""Call the rewards on a batch of rollout groups and write what they say into the rollouts.

    with Scorer(load_rewards(names), weights, timeout=60.0, workers=4, specs=names) as scorer:
        scorer.score(groups)
        pending = scorer.start(groups)      # or: begin, …
        pending.result()                    # … and write it into the rollouts later

Where a reward runs: an `async def` on an event loop in a thread of its own, all of a batch at once; a plain
function in this thread, in the order of the list, or with `workers` in processes, where it is given whole
groups and not the whole batch. So a reward that compares the completions of a group says the same there.
"""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

from grpo_cli.errors import RewardError
from grpo_cli.rewards.background import Background
from grpo_cli.rewards.call import PROBE_SECONDS, Asked, call, call_async, is_async, late
from grpo_cli.rewards.table import RewardFunction
from grpo_cli.rewards.workers import Workers
from grpo_cli.types import RolloutGroup

Named = tuple[str, RewardFunction]


def score(
    rewards: Sequence[Named], weights: Sequence[float], groups: list[RolloutGroup], timeout: float = 0.0
) -> None:
    """Fill every rollout's `rewards` (by name) and `reward` (their weighted sum), in this process.

    Raises RewardError when a reward raises, or returns anything but one finite number per completion.
    """
    with Scorer(rewards, weights, timeout) as scorer:
        scorer.score(groups)


class Scorer:
    """The rewards of a run, and what they run in, which is started when it is first needed.

    `timeout`: seconds that an async reward, or one in a process, may take for a batch, or its part of it;
    0: no limit. A plain function in this thread cannot be stopped and has none. `specs`: what the
    configuration calls each reward, in the same order; processes load them by it.
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
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; a reward may print
            self.start(groups).result()

    def start(self, groups: list[RolloutGroup]) -> "Pending":
        """Begin with the rewards that need not this thread."""
        asked = Asked.of(groups)
        pending = Pending(self, groups, asked, {}, time.monotonic())
        if asked.texts:
            for place, (name, function) in enumerate(self.rewards):
                if is_async(function):
                    pending.running[name] = [self._begin_async(name, function, asked)]
                elif self.worker_count:
                    pending.running[name] = self._begin_in_workers(place, name, pending)
        return pending

    def close(self) -> None:
        """End the processes and the event loop; they start again where they are needed again."""
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

    def _begin_async(self, name: str, function: RewardFunction, asked: Asked) -> Future[list[float]]:
        self._background = self._background or Background()
        return self._background.start(call_async(name, function, asked, self.timeout))

    def _begin_in_workers(self, place: int, name: str, pending: "Pending") -> list[Future[list[float]]]:
        """One question for each worker, about whole groups."""
        self._workers = self._workers or Workers(self.specs, self.worker_count, self.timeout)
        return [
            self._workers.submit(place, name, pending.asked.part(start, stop))
            for start, stop in parts(pending.groups, self.worker_count)
        ]


@dataclass
class Pending:
    """Rewards that are being computed."""

    scorer: Scorer
    groups: list[RolloutGroup]
    asked: Asked
    running: dict[str, list[Future[list[float]]]]
    started: float  # of time.monotonic()

    def result(self) -> None:
        """Compute what is left to this thread, wait for the rest, and write it all into the rollouts.

        Raises RewardError: of a plain reward in this thread first, then of the others in the list's order.
        After an error nothing runs any more.
        """
        try:
            values = self._values() if self.asked.texts else {}
        except BaseException:  # Ctrl-C, too: nobody will ask for the rest
            self.scorer.close()
            raise
        write(self.groups, values, self.scorer.weights)

    def _values(self) -> dict[str, list[float]]:
        here = {
            name: call(name, function, self.asked)
            for name, function in self.scorer.rewards
            if name not in self.running
        }
        elsewhere = {
            name: [value for future in futures for value in self._wait(name, future)]
            for name, futures in self.running.items()
        }
        values = here | elsewhere
        return {name: values[name] for name, _ in self.scorer.rewards}

    def _wait(self, name: str, future: Future[list[float]]) -> list[float]:
        """An answer. An async reward that blocks its loop cannot be cancelled there, but is given up here."""
        timeout = self.scorer.timeout
        is_blockable = is_async(dict(self.scorer.rewards)[name])
        if not (timeout and is_blockable):
            return future.result()
        latest = self.started + timeout + PROBE_SECONDS + 1.0
        try:
            return future.result(max(0.0, latest - time.monotonic()))
        except TimeoutError as error:
            blocked: RewardError = late(name, timeout)
            blocked.hint += "; it blocks its event loop: `await` what takes time, or write a plain function"
            raise blocked from error


def parts(groups: list[RolloutGroup], count: int) -> list[tuple[int, int]]:
    """A batch cut into at most `count` parts of whole groups: the completions each goes from and to."""
    ends = [0]
    for group in groups:
        ends.append(ends[-1] + len(group.rollouts))
    cuts = [ends[number * len(groups) // count] for number in range(count + 1)]
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]


def write(
    groups: list[RolloutGroup], values: Mapping[str, Sequence[float]], weights: Sequence[float]
) -> None:
    """Fill every rollout's `rewards` (by name) and `reward` (their weighted sum)."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    for index, rollout in enumerate(rollouts):
        rollout.rewards = {name: values[name][index] for name in values}
        rollout.reward = sum(
            weight * rollout.rewards[name] for weight, name in zip(weights, values, strict=True)
        )
