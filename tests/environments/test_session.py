"""A rollout's session: replies of a wrong kind, and of megabytes."""

from collections.abc import Sequence
from typing import Any

import pytest

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.run_tools import MOST_CHARACTERS
from grpo_cli.environments.session import Limits, Session
from grpo_cli.errors import ToolError
from grpo_cli.types import Message

TURN = Turn(number=0, token_ids=[1], text="x")


class Answering(Environment):
    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def respond(self, turn: Turn) -> Any:  # noqa: ARG002
        return self.reply


@pytest.mark.parametrize("reply", ["a text", ["a"], 3, "\x1b[2J"])
def test_a_reply_of_another_kind_is_named(reply: Any) -> None:
    with pytest.raises(ToolError, match=f"of type {type(reply).__name__}: respond") as caught:
        Session(Answering(reply)).respond(TURN)
    assert "\x1b" not in str(caught.value)


def test_megabytes_are_never_rendered() -> None:
    lengths = []

    def render(assistant: Message, ended: bool, replies: Sequence[Message]) -> list[int]:  # noqa: ARG001
        lengths.append(len(replies[0]["content"]))
        return [1] * lengths[-1]

    reply = Reply.of_user("y" * 10_000_000)
    session = Session(Answering(reply), Limits(max_result_tokens=40), render)
    found = session.respond(TURN)
    assert found is not None
    assert 0 < len(session.ids_of(found, TURN, True)) <= 40
    assert max(lengths) < MOST_CHARACTERS + 100
    assert len(reply.messages[0]["content"]) == 10_000_000  # the environment's own is as it was
    assert session.messages[1]["content"].endswith("…")
