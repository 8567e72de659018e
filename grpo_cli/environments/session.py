"""One rollout's environment: its limits, an account of what it did, and its answers as token ids.

    session = Session(environment, limits, render)
    session.read(token_id)                     # ids to force after this token
    session.respond(turn)                      # in a thread: the environment's reply
    session.ids_of(reply, turn)                # the ids that follow the turn; None: no room is left

Environments write at most `max_result_tokens` tokens into a completion. A result that does not fit is
shortened in its text; if not even its frame fits, the completion ends there, as truncated.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.run_tools import bounded
from grpo_cli.environments.user import ask
from grpo_cli.types import EnvironmentUse, Message

CUT_MARK = " …"  # the end of a shortened result
SHOWN = 100  # characters of a wrong value in an error

# Ids of messages after a turn, up to the assistant's next one. The flag: the turn's end token was sampled.
Render = Callable[[Message, bool, Sequence[Message]], list[int]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one completion."""

    max_turns: int = 8
    max_result_tokens: int = 512


@dataclass
class Session:
    """The environment of one rollout. A session serves one rollout and is then discarded."""

    environment: Environment
    limits: Limits = field(default_factory=Limits)
    render: Render | None = None
    written: int = 0  # tokens that the environment wrote
    is_full: bool = False  # a result did not fit
    turns: int = 1
    seconds: float = 0.0
    messages: list[Message] = field(default_factory=list)  # the turns so far and their answers

    @property
    def answers_turns(self) -> bool:
        """True if the environment may answer a turn that has ended."""
        return type(self.environment).respond is not Environment.respond

    @property
    def room(self) -> int:
        """Number of tokens that the environment may still write."""
        return self.limits.max_result_tokens - self.written

    def read(self, token_id: int) -> list[int]:
        """Read the rollout's next token; the ids to force after it, usually none."""
        return self.taken(ask(self.environment, "read", token_id))

    def taken(self, ids: Sequence[int]) -> list[int]:
        """The ids, counted; none if they do not fit."""
        if len(ids) > self.room:
            self.is_full = True
            return []
        self.written += len(ids)
        return list(ids)

    def respond(self, turn: Turn) -> Reply | None:
        """The environment's reply; None if the rollout is finished. May take long: called in a thread.

        Raises ToolError for an environment that returns something else.
        """
        started = time.monotonic()
        try:
            return ask(self.environment, "respond", turn) if self.turns < self.limits.max_turns else None
        finally:
            self.seconds += time.monotonic() - started

    def ids_of(self, reply: Reply, turn: Turn, ended: bool) -> list[int]:
        """The ids that follow a turn, ending where the model goes on; none if they do not fit or say nothing.

        `ended`: the model wrote its end token.
        """
        assistant = getattr(self.environment, "assistant", None) or assistant_message(turn)
        ids = list(reply.token_ids)
        messages = list(reply.messages)
        if messages:
            assert self.render is not None
            messages, ids = self.shortened(assistant, ended, messages)
        ids = self.taken(ids)
        if ids:
            self.messages += [assistant, *messages]
            self.turns += 1
        return ids

    def shortened(
        self, assistant: Message, ended: bool, messages: list[Message]
    ) -> tuple[list[Message], list[int]]:
        """The messages and their ids, the longest contents cut until they fit if that is possible.

        A text has at most MOST_CHARACTERS from the start: megabytes would be tokenized again and again.
        """
        assert self.render is not None
        messages = [{**message, "content": bounded(message["content"])} for message in messages]
        ids = self.render(assistant, ended, messages)
        while len(ids) > self.room and any(len(message["content"]) > len(CUT_MARK) for message in messages):
            longest = max(range(len(messages)), key=lambda place: len(messages[place]["content"]))
            text = messages[longest]["content"].removesuffix(CUT_MARK)
            kept = text[: len(text) * 3 // 4]
            messages[longest] = {**messages[longest], "content": kept + CUT_MARK if kept else ""}
            ids = self.render(assistant, ended, messages)
        return messages, ids

    def use(self) -> EnvironmentUse:
        """The account of the rollout, after its end."""
        environment = self.environment
        return EnvironmentUse(
            turns=self.turns,
            calls=environment.calls,
            failures=environment.failures,
            seconds=self.seconds + environment.replayed_seconds,
            reward=ask(environment, "get_reward"),
        )


def assistant_message(turn: Turn) -> Message:
    """A turn of the model as a message."""
    return {"role": "assistant", "content": turn.text}
