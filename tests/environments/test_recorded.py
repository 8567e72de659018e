"""Recorded environments: replayed by turn or as a whole, and told what they missed if a model departs."""

from typing import Any

import pytest

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.recorded import Place, Record, RecordedEnvironment, can_be_recorded
from grpo_cli.environments.tool_calls import ParsedTurn
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.environments.tools import Call, Tool
from grpo_cli.untrusted_json import checked
from tests.support.environments import Echo

PLACE, DIGEST = Place(4, 1), "0" * 64


class Memory:
    """Keeps records as a journal does."""

    def __init__(self) -> None:
        self.records: dict[tuple[int, int, int, bool], Record] = {}

    def find(self, at: int, row: int, turn: int, is_end: bool = False) -> Record | None:
        return self.records.get((at, row, turn, is_end))

    def add(self, record: dict[str, Any]) -> None:
        found = checked(Record, record)
        self.records[found.at, found.row, found.turn, found.is_end] = found


class Adding(Environment):
    """Answers with the number of all tokens so far, two times."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def respond(self, turn: Turn) -> Reply | None:
        self.seen.append(turn.token_ids)
        self.calls += 1
        return Reply.of_user(str(sum(map(len, self.seen)))) if len(self.seen) < 3 else None

    def get_reward(self) -> float:
        return float(sum(map(sum, self.seen)))


class Parser:
    """Every turn is a call of `double`, but a turn of `end`."""

    def parse(self, text: str, schemas: Any, first: int = 0) -> ParsedTurn:  # noqa: ARG002
        if text == "end":
            return ParsedTurn(text)
        return ParsedTurn("", [Call(name="double", arguments={"text": text}, id=f"call{first:05d}")])


def turn(number: int, *ids: int, text: str = "") -> Turn:
    return Turn(number=number, token_ids=list(ids), text=text)


def recorded(environment: Environment, memory: Memory) -> RecordedEnvironment:
    return RecordedEnvironment(environment, memory, PLACE, DIGEST)


TURNS = [turn(0, 5, 6), turn(1, 7), turn(2, 8, 9)]


def played(environment: RecordedEnvironment, turns: list[Turn]) -> list[Any]:
    return [environment.respond(one) for one in turns]


def test_a_whole_rollout_is_replayed_without_its_environment() -> None:
    memory, first, second = Memory(), Adding(), Adding()
    replies = played(recorded(first, memory), TURNS)
    assert replies == [Reply.of_user("2"), Reply.of_user("3"), None]
    again = recorded(second, memory)
    assert (played(again, TURNS), second.seen) == (replies, [])
    assert (again.get_reward(), again.calls, again.get_reward()) == (35.0, 3, 35.0)
    assert second.seen == []


def test_an_unfinished_rollout_with_a_state_begins_anew() -> None:
    memory, second = Memory(), Adding()
    played(recorded(Adding(), memory), TURNS[:2])
    again = recorded(second, memory)
    assert played(again, TURNS)[:2] == [Reply.of_user("2"), Reply.of_user("3")]
    assert second.seen == [[5, 6], [7], [8, 9]]


def test_a_truncated_rollout_is_whole_once_its_reward_is_known() -> None:
    memory, second = Memory(), Adding()
    first = recorded(Adding(), memory)
    played(first, TURNS[:2])
    assert first.get_reward() == 18.0
    again = recorded(second, memory)
    played(again, TURNS[:2])
    assert (again.get_reward(), second.seen) == (18.0, [])


@pytest.mark.parametrize("last", [[turn(2, 1)], []])
def test_a_model_that_departs_meets_the_environment_that_it_would_have_met(last: list[Turn]) -> None:
    memory, second = Memory(), Adding()
    played(recorded(Adding(), memory), TURNS)
    again = recorded(second, memory)
    assert played(again, [*TURNS[:2], *last])[:2] == [Reply.of_user("2"), Reply.of_user("3")]
    assert again.get_reward() == 18.0 + sum(sum(one.token_ids) for one in last)
    assert second.seen == [[5, 6], [7], *(one.token_ids for one in last)]


def test_the_same_tokens_after_another_answer_are_another_turn() -> None:
    memory = Memory()
    played(recorded(Adding(), memory), TURNS)
    found = memory.records[4, 1, 0, False]
    assert found.reply
    changed = found.model_copy(update={"reply": found.reply.model_copy(update={"token_ids": [1]})})
    memory.records[4, 1, 0, False] = changed
    second = Adding()
    again = recorded(second, memory)
    assert again.respond(TURNS[0]) == Reply(({"role": "user", "content": "2"},), (1,))
    assert again.respond(TURNS[1]) == Reply.of_user("3")
    assert second.seen == [[5, 6], [7]]


def test_a_tool_is_replayed_turn_by_turn() -> None:
    made: list[str] = []

    def double(text: str) -> str:
        """Double a text.

        Args:
            text: The text.
        """
        made.append(text)
        if text == "b":
            raise ValueError("no")
        return text * 2

    def tools() -> ToolEnvironment:
        return ToolEnvironment([Tool.of(double, "here")], Parser(), max_tool_calls=3)  # type: ignore[arg-type]

    turns = [turn(0, 1, text="a"), turn(1, 2, text="b"), turn(2, 3, text="c"), turn(3, 4, text="d")]
    memory, whole = Memory(), recorded(tools(), Memory())
    expected = [(whole.respond(one), whole.calls, whole.failures, whole.assistant) for one in turns]
    played(recorded(tools(), memory), turns[:2])
    made.clear()
    again = recorded(tools(), memory)
    found = [(again.respond(one), again.calls, again.failures, again.assistant) for one in turns]
    assert found == expected
    assert made == ["c"]  # two replayed, one made, and the last refused: three calls were allowed
    assert [calls for _, calls, _, _ in found] == [1, 2, 3, 4]
    assert [failures for _, _, failures, _ in found] == [0, 1, 1, 2]


def test_the_time_of_replayed_answers_counts() -> None:
    memory = Memory()
    played(recorded(Adding(), memory), TURNS)
    for key, record in memory.records.items():
        memory.records[key] = record.model_copy(update={"seconds": 2.0})
    again = recorded(Adding(), memory)
    played(again, TURNS)
    assert again.replayed_seconds == 6.0


def test_an_environment_that_reads_tokens_is_not_recorded() -> None:
    assert [can_be_recorded(one) for one in (Adding(), Echo(), Environment())] == [True, False, False]
