"""The environment of a model with tools: it runs the calls of a turn and answers with their results.

    environment = ToolEnvironment(tools, parser_for(tokenizer), max_tool_calls=8, tool_timeout=10.0)
    environment.respond(turn)        →  Reply with one message of the role `tool` for each call
    environment.assistant            →  the turn as a message with its `tool_calls`, for Suffix.after

A turn without calls finishes the rollout. A call that fails, or cannot be parsed, is answered by
`{"error": …}`, and the model may try again.
"""

import time
from collections.abc import Sequence

from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.run_tools import Observation, run_calls
from grpo_cli.environments.tool_calls import ParsedTurn, ToolParser
from grpo_cli.environments.tools import Call, Tool
from grpo_cli.environments.user import UserEnvironment
from grpo_cli.types import Message

UNREAD = "unreadable_call"  # stands for the name of a call that cannot be parsed


class ToolEnvironment(Environment):
    """One rollout's tools, limits and counters."""

    def __init__(
        self,
        tools: Sequence[Tool],
        parser: ToolParser,
        *,
        max_tool_calls: int = 0,
        tool_timeout: float = 0.0,
    ) -> None:
        self.tools = list(tools)
        self.parser = parser
        self.max_tool_calls = max_tool_calls  # of the rollout; 0: no limit
        self.tool_timeout = tool_timeout  # seconds for the calls of a turn; 0: no limit
        self.schemas = [tool.schema for tool in tools]
        self.assistant: Message | None = None  # the last turn
        self.observations: list[Observation] = []  # of its calls
        self.calls = 0  # of the rollout, failed ones and those that cannot be parsed included
        self.failures = 0
        self.seconds = 0.0  # that the rollout waited for its tools

    def respond(self, turn: Turn) -> Reply | None:
        """Run the turn's calls; None if it has none."""
        parsed = self.parser.parse(turn.text, self.schemas, self.calls)
        calls = list(parsed.calls)
        if parsed.error:
            calls.append(Call(name=UNREAD, id=f"call{self.calls + len(calls):05d}"))
        self.assistant, self.observations = message_of(parsed, calls), []
        if not calls:
            return None
        self.observations = self.observe(parsed)
        self.calls += len(calls)
        self.failures += sum(one.failed for one in self.observations)
        return Reply(messages=tuple(map(answer, calls, self.observations)))

    @property
    def last_calls(self) -> list[tuple[Call, Observation]]:
        """The calls of the last turn with their observations."""
        calls = (self.assistant or {}).get("tool_calls", [])
        named = [Call(name=one["function"]["name"], arguments=one["function"]["arguments"]) for one in calls]
        return list(zip(named, self.observations, strict=True))

    def observe(self, parsed: ParsedTurn) -> list[Observation]:
        """The observations of a turn's calls, one more if a call cannot be parsed."""
        left = self.max_tool_calls - self.calls if self.max_tool_calls else len(parsed.calls)
        allowed = parsed.calls[: max(0, left)]
        begun = time.monotonic()
        found = run_calls(self.tools, allowed, self.tool_timeout)
        self.seconds += time.monotonic() - begun if allowed else 0.0
        refused = Observation.error(f"no calls are left: max_tool_calls = {self.max_tool_calls}")
        found += [refused] * (len(parsed.calls) - len(allowed))
        return found + ([Observation.error(parsed.error)] if parsed.error else [])


def tools_in(environment: Environment) -> ToolEnvironment | None:
    """The part of an environment that runs tools; None if it has none."""
    inner = environment.tools if isinstance(environment, UserEnvironment) else environment
    return inner if isinstance(inner, ToolEnvironment) else None


def message_of(parsed: ParsedTurn, calls: Sequence[Call]) -> Message:
    """A turn of the assistant, with its calls as chat templates want them."""
    message: Message = {"role": "assistant", "content": parsed.content}
    if calls:
        message["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def answer(call: Call, observation: Observation) -> Message:
    """The message of the role `tool` that answers a call."""
    return {"role": "tool", "name": call.name, "tool_call_id": call.id, "content": observation.text}
