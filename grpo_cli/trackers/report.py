"""The listener that reports a run to its trackers: `report_to` of the configuration.

    with reporting(["wandb"], folder=run_dir, name="prod", config=values, tell=listener) as tracking:
        tracking(StepFinished(…))

Metrics by step under TRL's names, evaluations, the configuration, completions as a table, and how the run
ended. Each tracker works in a thread of its own (worker.py). A resumed run goes on under the same id, and no
step is sent twice (memory.py).
"""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from grpo_cli.engine import events
from grpo_cli.errors import Interrupted
from grpo_cli.trackers.memory import Memory
from grpo_cli.trackers.names import name_of, reported
from grpo_cli.trackers.protocol import Opening, OpenTracker, State, Table
from grpo_cli.trackers.table import TRACKERS
from grpo_cli.trackers.worker import CLOSING_SECONDS, Item, Worker
from grpo_cli.types import RolloutGroup

FOLDER = "trackers"  # in the run's folder: what is remembered of each tracker, and its files
FAILED_SECONDS = 10.0  # that a run which was interrupted or failed waits for a tracker
NO_INFLUENCE = ("report_to", "log_completions", "log_jsonl", "keep_checkpoints", "keep_rollouts")


class Tracking:
    """The listener. It starts the trackers with RunStarted and gives them what follows."""

    def __init__(
        self,
        trackers: Mapping[str, OpenTracker],
        *,
        folder: Path,
        name: str,
        config: dict[str, Any],
        tell: events.Listener,
    ) -> None:
        """`folder`: the run's. `tell` receives notices about trackers, in the thread of the run."""
        self.folder, self.name, self.config, self.tell = folder / FOLDER, name, config, tell
        self._trackers = dict(trackers)
        self._workers: list[Worker] = []
        self._start: events.RunStarted | None = None
        self._end: events.RunFinished | None = None

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            self._begin(event)
        elif isinstance(event, events.StepFinished) and self._is_logged(event.step):
            self._put(Item(kind="step", step=event.step, values=reported(event.metrics)))
            table = completions(event.groups, self.config["log_completions"])
            if table.rows:
                self._put(Item(kind="table", step=event.step, table=table))
        elif isinstance(event, events.EvaluationDone):
            self._put(Item(kind="evaluation", step=event.step, values=reported(event.metrics)))
        elif isinstance(event, events.RunFinished):
            self._end = event

    def close(self, error: BaseException | None) -> None:
        """Report the end to every tracker, and wait for those that answer."""
        state, seconds = State.FINISHED, CLOSING_SECONDS
        if error is not None:
            is_signal = isinstance(error, Interrupted | KeyboardInterrupt)
            state, seconds = State.INTERRUPTED if is_signal else State.FAILED, FAILED_SECONDS
        summary = verdict(self._end) if self._end else dict[str, float | str](verdict=state.value)
        for worker in self._workers:
            worker.end(state, summary)
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.wait(deadline)
        self._pass_on_notices()

    def _begin(self, event: events.RunStarted) -> None:
        self._start = event
        with suppress(OSError):  # then each tracker that needs the folder says so
            self.folder.mkdir(exist_ok=True)
        settings = fingerprint(self.config)
        for name, open_tracker in self._trackers.items():
            file = self.folder / f"{name}.json"
            memory = Memory.read(file).of_resumed(event.resumed_at, settings)
            config = {**self.config, "parameters": event.parameters, "device": event.device}
            opening = Opening(
                name=self.name, folder=self.folder / name, config=config, new_id=secrets.token_hex(4)
            )
            self._workers.append(Worker(name, open_tracker, opening, file, memory))

    def _is_logged(self, step: int) -> bool:
        start = self._start
        return start is None or step % start.logging_steps == 0 or step == start.total_steps

    def _put(self, item: Item) -> None:
        for worker in self._workers:
            worker.put(item)
        self._pass_on_notices()

    def _pass_on_notices(self) -> None:
        for worker in self._workers:
            for text in worker.notices():
                self.tell(events.Notice(text))


@contextmanager
def reporting(names: Sequence[str], **facts: Any) -> Iterator[Tracking]:
    """A Tracking for the named trackers, told at the end of the block how it ended."""
    tracking = Tracking({name: TRACKERS[name] for name in names}, **facts)
    try:
        yield tracking
    except BaseException as error:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C ends the waiting; the first error stays the one
            tracking.close(error)
        raise
    tracking.close(None)


def fingerprint(config: dict[str, Any]) -> str:
    """A checksum of the keys that decide what the steps of a run are."""
    kept = {key: value for key, value in config.items() if key not in NO_INFLUENCE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def completions(groups: Sequence[RolloutGroup], count: int) -> Table:
    """Up to `count` of a step's completions, taken from its groups in turn, under TRL's column names."""
    by_turn = [(group, turn) for turn in range(len(groups[0].rollouts)) for group in groups][:count]
    names = list(groups[0].rollouts[0].rewards)
    rows = []
    for group, turn in by_turn:
        rollout = group.rollouts[turn]
        rewards = [rollout.rewards.get(name) for name in names]
        rows.append([prompt_text(group), rollout.text, *rewards, rollout.advantage, str(rollout.stop_reason)])
    return Table(["prompt", "completion", *names, "advantage", "stop_reason"], rows)


def prompt_text(group: RolloutGroup) -> str:
    """A group's prompt as one text: a line for the role of each message, then its content."""
    example = group.example
    if example.prompt_text is not None:
        return example.prompt_text
    return "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in example.messages)


def verdict(end: events.RunFinished) -> dict[str, float | str]:
    """The results of a finished run: a sentence, and its numbers."""
    found: dict[str, float | str] = {"steps": end.steps, "seconds": end.seconds}
    said = f"{end.steps} steps"
    if end.first and end.last:
        before, after = end.first["eval_accuracy"], end.last["eval_accuracy"]
        found |= {f"{name_of('eval_accuracy')}_first": before, f"{name_of('eval_accuracy')}_last": after}
        said = f"accuracy {100 * before:.1f} → {100 * after:.1f} % in {said}"
    if end.nothing_learnt:
        said = f"nothing was learnt: {end.nothing_learnt.seen}"
    return {**found, "verdict": said}
