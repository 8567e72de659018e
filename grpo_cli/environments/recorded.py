"""An environment whose answers are recorded, and replayed where the same turn was answered before.

    environment = RecordedEnvironment(environment, records, Place(at=40, row=3), digest)
    environment.respond(turn)       # a recorded answer to the same turn, else the environment's own

A turn is the same if the prompt, the model's tokens and all answers before it are the same. Functions as
tools are replayed turn by turn: a recorded call is not made again.

An environment with a state of its own cannot be brought to a state without calling it. It is replayed only if
its rollout had ended and its reward is recorded, so that it need not be called at all. An unfinished rollout
begins anew: its environment is asked again from the first turn. If the model departs from a recorded rollout,
because a key has changed, the turns that were replayed are told to the environment first.

Not recorded are environments that read every token, such as nanochat's calculator: they answer at once.
"""

import time
from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.types import Message
from grpo_cli.untrusted_json import Schema

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class SavedMessage(Schema):
    """A message of a reply."""

    role: str
    content: str
    name: str = ""
    tool_call_id: str = ""


class SavedReply(Schema):
    """A Reply as JSON."""

    messages: Annotated[list[SavedMessage], Field(max_length=1000, default_factory=list)]
    token_ids: Annotated[list[TokenId], Field(max_length=1 << 20, default_factory=list)]

    def restored(self) -> Reply:
        """The reply itself."""
        messages = [message.model_dump(exclude_unset=True) for message in self.messages]
        return Reply(tuple(messages), tuple(self.token_ids))


class SavedFunction(Schema):
    """The name of a called function, and its arguments."""

    name: str
    arguments: dict[str, Any]


class SavedCall(Schema):
    """A call in a message of the assistant."""

    type: Literal["function"]
    id: str
    function: SavedFunction


class SavedTurn(Schema):
    """A turn with its calls, as a message of the assistant."""

    role: Literal["assistant"]
    content: str
    tool_calls: Annotated[list[SavedCall], Field(max_length=1000, default_factory=list)]


class Record(Schema):
    """The answer to one turn, or with `is_end` the reward of a rollout that has ended."""

    at: Count  # place of the batch's first prompt in the run's stream of prompts
    row: Count  # of the batch: prompt · G + completion
    turn: Count
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of all that the answer may depend on
    reply: SavedReply | None = None  # None: the environment has finished
    assistant: SavedTurn | None = None
    calls: Count = 0  # of the rollout so far
    failures: Count = 0
    seconds: Annotated[float, Field(ge=0, lt=1e9)] = 0.0
    is_end: bool = False
    reward: float | None = None


class Records(Protocol):
    """Keeps the records of a run."""

    def find(self, at: int, row: int, turn: int, is_end: bool = False) -> Record | None:
        """The record of a turn; None if there is none."""

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record. It is left out if it cannot be kept."""


@dataclass(frozen=True)
class Place:
    """The place of a rollout in its run: its batch's first prompt in the stream, and its row."""

    at: int
    row: int


def can_be_recorded(environment: Environment) -> bool:
    """True for an environment that answers turns and does not read single tokens."""
    kind = type(environment)
    return kind.respond is not Environment.respond and kind.read is Environment.read


class RecordedEnvironment(Environment):
    """One rollout's environment with its records."""

    def __init__(self, environment: Environment, records: Records, place: Place, digest: str) -> None:
        """`digest`: of the run's settings and the rollout's prompt."""
        self.environment, self.records, self.place = environment, records, place
        self.marker_ids = environment.marker_ids
        self.assistant: Message | None = None
        self.digest = digest
        self.turns = 0  # answered
        self.unseen: list[Turn] = []  # turns that were replayed, and that an environment with a state lacks
        self.has_state = not isinstance(environment, ToolEnvironment)
        self.end = records.find(place.at, place.row, 0, is_end=True)  # its turns may be replayed

    def respond(self, turn: Turn) -> Reply | None:
        """The recorded answer to the same turn, else the environment's own."""
        self.digest = extended(self.digest, turn.token_ids)
        record = self.records.find(self.place.at, self.place.row, self.turns)
        is_usable = record is not None and record.digest == self.digest and (self.end or not self.has_state)
        reply = self.replayed(record, turn) if record is not None and is_usable else self.asked(turn)
        self.turns += 1
        self.digest = extended(self.digest, plain(reply))
        if reply is None and self.has_state:
            self.reward = self.settled()
        return reply

    def replayed(self, record: Record, turn: Turn) -> Reply | None:
        """The recorded answer; the environment has then answered as often as it had."""
        self.calls, self.failures = record.calls, record.failures
        self.assistant = record.assistant.model_dump(exclude_unset=True) if record.assistant else None
        self.replayed_seconds += record.seconds
        if isinstance(self.environment, ToolEnvironment):  # all of its state
            self.environment.calls, self.environment.failures = record.calls, record.failures
        else:
            self.unseen.append(turn)
        return record.reply.restored() if record.reply else None

    def asked(self, turn: Turn) -> Reply | None:
        """The environment's own answer, which is recorded."""
        self.catch_up()
        begun = time.monotonic()
        reply = self.environment.respond(turn)
        self.calls, self.failures = self.environment.calls, self.environment.failures
        self.assistant = getattr(self.environment, "assistant", None)
        self.records.add({
            **vars(self.place), "turn": self.turns, "digest": self.digest, "reply": plain(reply),
            "assistant": self.assistant, "calls": self.calls, "failures": self.failures,
            "seconds": time.monotonic() - begun,
        })  # fmt: skip
        return reply

    def catch_up(self) -> None:
        """Tell the environment the turns that were replayed without it."""
        for turn in self.unseen:
            self.environment.respond(turn)
        self.unseen.clear()

    def get_reward(self) -> float | None:
        """The environment's reward, recorded if it has a state."""
        if not self.has_state or not self.turns:
            return self.environment.get_reward()
        return self.reward if self.is_settled else self.settled()

    is_settled = False
    reward: float | None = None

    def settled(self) -> float | None:
        """The reward of the rollout, which has ended."""
        self.is_settled = True
        if self.unseen and self.end is not None and self.end.digest == self.digest:
            return self.end.reward
        self.catch_up()
        reward = self.environment.get_reward()
        self.records.add(
            {**vars(self.place), "turn": 0, "digest": self.digest, "is_end": True, "reward": reward}
        )
        return reward


def plain(reply: Reply | None) -> dict[str, Any] | None:
    """A reply as JSON has it."""
    return None if reply is None else {"messages": list(reply.messages), "token_ids": list(reply.token_ids)}


def extended(digest: str, more: Any) -> str:
    """The digest of all so far and of what follows."""
    return sha256(f"{digest} {dumps(more, sort_keys=True, default=repr)}".encode()).hexdigest()
