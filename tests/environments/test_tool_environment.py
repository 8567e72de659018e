"""A rollout with tools: turns are answered, counted and bounded, and go on with any template."""

import time

import pytest

from grpo_cli.environments.protocol import Reply, Turn
from grpo_cli.environments.suffix import suffix_for
from grpo_cli.environments.tool_calls import parser_for
from grpo_cli.environments.tool_environment import ToolEnvironment
from grpo_cli.environments.tools import Tool
from tests.support.chat_models import KINDS, chat_model

CALL = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
WRITTEN = {
    "qwen3_5": "<tool_call>\n<function=lookup>\n<parameter=city>Paris</parameter>\n</function>\n</tool_call>",
    "llama3_2": '{"name": "lookup", "parameters": {"city": "Paris"}}',
    "mistral": '[TOOL_CALLS] [{"name": "lookup", "arguments": {"city": "Paris"}}]',
    "gpt_oss": '<|channel|>commentary to=functions.lookup <|constrain|>json<|message|>{"city": "Paris"}',
    "lfm2": '<|tool_call_start|>[lookup(city="Paris")]<|tool_call_end|>',
}
BROKEN = {
    "qwen3_5": "<tool_call>lookup</tool_call>",
    "llama3_2": '{"name": "lookup", "parameters": {',
    "mistral": "[TOOL_CALLS] lookup",
    "gpt_oss": "<|channel|>commentary to=functions.lookup",
    "lfm2": "<|tool_call_start|>lookup<|tool_call_end|>",
}


def lookup(city: str) -> str:
    """Look up a city.

    Args:
        city: Its name.
    """
    return {"Paris": "2.1 million"}[city]


def hang(seconds: float) -> str:
    """Wait.

    Args:
        seconds: The time.
    """
    time.sleep(seconds)
    return "woke"


TOOLS = [Tool.of(lookup, "here"), Tool.of(hang, "here")]


def environment(model: str = "qwen2_5", **limits: float) -> ToolEnvironment:
    return ToolEnvironment(TOOLS, parser_for(chat_model(model).tokenizer), **limits)  # type: ignore[arg-type]


def turn(text: str) -> Turn:
    return Turn(number=0, token_ids=[], text=text)


def texts(reply: Reply | None) -> list[str]:
    assert reply is not None
    return [message["content"] for message in reply.messages]


def test_a_turn_without_calls_finishes_the_rollout() -> None:
    one = environment()
    assert one.respond(turn("It is 5.")) is None
    assert one.assistant == {"role": "assistant", "content": "It is 5."}
    assert (one.calls, one.failures, one.seconds) == (0, 0, 0.0)


def test_calls_are_answered_in_order() -> None:
    one = environment()
    reply = one.respond(
        turn("I look." + CALL.format("lookup", '{"city": "Paris"}') + CALL.format("look", "{}"))
    )
    assert reply == Reply(
        messages=(
            {"role": "tool", "name": "lookup", "tool_call_id": "call00000", "content": "2.1 million"},
            {
                "role": "tool",
                "name": "look",
                "tool_call_id": "call00001",
                "content": '{"error": "there is no tool `look`; the tools are `lookup`, `hang`"}',
            },
        )
    )
    assert one.assistant == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {
                "type": "function",
                "id": "call00000",
                "function": {"name": "lookup", "arguments": {"city": "Paris"}},
            },
            {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {}}},
        ],
    }
    assert (one.calls, one.failures) == (2, 1)
    assert texts(one.respond(turn(CALL.format("lookup", '{"city": "Rome"}')))) == [
        '{"error": "KeyError: \'Rome\'"}'
    ]
    assert one.assistant["tool_calls"][0]["id"] == "call00002"
    assert (one.calls, one.failures) == (3, 2)


def test_calls_beyond_the_limit_are_errors() -> None:
    one = environment(max_tool_calls=2)
    call = CALL.format("lookup", '{"city": "Paris"}')
    refused = '{"error": "no calls are left: max_tool_calls = 2"}'
    assert texts(one.respond(turn(call * 3))) == ["2.1 million", "2.1 million", refused]
    assert texts(one.respond(turn(call))) == [refused]
    assert (one.calls, one.failures) == (4, 2)


def test_a_call_that_cannot_be_parsed_is_answered_last() -> None:
    one = environment()
    good = CALL.format("lookup", '{"city": "Paris"}')
    first, error = texts(one.respond(turn(f"<tool_call>{{</tool_call>{good}")))
    assert first == "2.1 million"
    assert error.startswith('{"error": "this tool call cannot be parsed: Expecting property name')
    assert (one.calls, one.failures) == (2, 1)


def test_time_is_counted_and_bounded() -> None:
    one = environment(tool_timeout=0.3)
    text = CALL.format("hang", '{"seconds": 5}') + CALL.format("lookup", '{"city": "Paris"}')
    assert texts(one.respond(turn(text))) == [
        '{"error": "`hang` did not answer within 0.3 s"}',
        "2.1 million",
    ]
    assert 0.3 <= one.seconds < 2.0


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("is_broken", [False, True])
def test_a_rollout_goes_on_with_every_template(model: str, is_broken: bool) -> None:
    tokenizer = chat_model(model).tokenizer
    one = environment(model)
    good = CALL.format("lookup", '{"city": "Paris"}')
    text = BROKEN.get(model, "<tool_call>lookup</tool_call>") if is_broken else WRITTEN.get(model, good)
    reply = one.respond(turn(text))
    assert reply is not None
    assert one.assistant is not None
    ids = suffix_for(tokenizer, one.schemas).after(one.assistant, True, reply.messages)
    shown = tokenizer.spell(ids)
    assert ("this tool call cannot be parsed" if is_broken else "2.1 million") in shown
    assert (one.calls, one.failures) == (1, int(is_broken))
