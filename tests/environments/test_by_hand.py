"""Turns that a person types: the forms of a call, and conversations without a model."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.environments.by_hand import (
    HandParser,
    end_id,
    tooling_without_model,
    typed_ids,
    with_typed_calls,
)
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.protocol import Turn
from grpo_cli.environments.table import load_environments
from grpo_cli.environments.tool_environment import tools_in
from grpo_cli.environments.tools import Call
from grpo_cli.models import tiny
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.types import Example
from tests.support.chat_models import SCHEMAS, chat_model

TINY: Any = NanochatTokenizer.load(Path(tiny.__file__).parent)
DEEP = "[" * 100_000
TOOLS = '''
def add(a: int, b: int = 1) -> int:
    """Add.

    Args:
        a: one
        b: other
    """
    return a + b
'''


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ('/lookup {"city": "Paris", "year": 3}', {"city": "Paris", "year": 3}),
        ("/lookup city=Paris year=3", {"city": "Paris", "year": 3}),
        ("/lookup Paris 3", {"city": "Paris", "year": 3}),
        ("/lookup year=3 'New York'", {"city": "New York", "year": 3}),
        pytest.param("/lookup 7 " + DEEP, {"city": "7", "year": DEEP}, id="deep"),
        ("/lookup 7 x", {"city": "7", "year": "x"}),  # the call is checked against the schema elsewhere
        ("/lookup", {}),
    ],
)
def test_forms_of_a_call(line: str, arguments: dict[str, Any]) -> None:
    parsed = HandParser().parse(line, SCHEMAS, 4)
    assert (parsed.calls, parsed.content, parsed.error) == (
        [Call(name="lookup", arguments=arguments, id="call00004")], "", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/lookup a 2 b", "this tool call cannot be parsed: 'b' is one argument too many"),
        ("/lookup 'a", "this tool call cannot be parsed: No closing quotation"),
        ('/lookup {"city": ', "this tool call cannot be parsed: Expecting value"),
        pytest.param(
            '/lookup {"city": ' + DEEP,
            "this tool call cannot be parsed: maximum recursion depth exceeded",
            id="deep",
        ),
    ],
)
def test_a_slip_is_answered_as_a_model_s(line: str, error: str) -> None:
    parsed = HandParser().parse(line, SCHEMAS)
    assert parsed.calls == []
    assert parsed.error.startswith(error)


def test_several_lines_and_the_model_s_own_syntax() -> None:
    tokenizer: Any = chat_model("qwen2_5").tokenizer
    config = Config(tools=[])
    parsed = HandParser().parse("So:\n/lookup Paris\n/lookup Rome", SCHEMAS)
    assert [call.arguments for call in parsed.calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert parsed.content == "So:"
    from grpo_cli.environments.tool_calls import parser_for

    parser = HandParser(model=parser_for(tokenizer, config.tool_parser, SCHEMAS))
    call = '<tool_call>\n{"name": "lookup", "arguments": {"city": "Bonn"}}\n</tool_call>'
    assert [one.arguments for one in parser.parse(call, SCHEMAS).calls] == [{"city": "Bonn"}]
    assert HandParser().parse(call, SCHEMAS).calls == []  # without a model it is a text


def turn(text: str) -> Turn:
    return Turn(number=0, token_ids=[], text=text)


def test_tools_without_a_model_answer_as_a_user(tmp_path: Path) -> None:
    (tmp_path / "adding.py").write_text(TOOLS)
    tooling = tooling_without_model(Config(), TINY, None, [f"{tmp_path}/adding.py:add"])
    session = tooling.make_session(Example(messages=[], answer=""))
    assert session is not None
    asked = turn("/add 2\n/add 2 b=3")
    reply = session.respond(asked)
    assert reply is not None
    assert (
        TINY.spell(session.ids_of(reply, asked, ended=True))
        == "<|user_start|>3\n5<|user_end|><|assistant_start|>"
    )
    assert tools_in(session.environment) is not None


def test_an_environment_without_a_model() -> None:
    environments = load_environments(["guess"])
    tooling = tooling_without_model(Config(environment="guess"), TINY, environments)
    example = tooling.begin(
        Example(messages=[{"role": "user", "content": "?"}], answer="", columns={"answer": 2})
    )
    session = tooling.make_session(example)
    assert session is not None
    reply = session.respond(turn("4"))
    assert reply is not None
    assert reply.messages == ({"role": "user", "content": "lower"},)


def test_typed_calls_with_a_model(tmp_path: Path) -> None:
    (tmp_path / "adding.py").write_text(TOOLS)
    tokenizer = chat_model("qwen2_5").tokenizer
    tooling = with_typed_calls(tooling_of(Config(tools=[f"{tmp_path}/adding.py:add"]), tokenizer))
    session = tooling.make_session(Example(messages=[], answer=""))
    assert session is not None
    asked = turn("/add a=4")
    reply = session.respond(asked)
    assert reply is not None
    assert "<tool_response>\n5\n</tool_response>" in tokenizer.spell(session.ids_of(reply, asked, ended=True))


def test_special_tokens_can_be_typed() -> None:
    special = TINY.encoding.encode_single_token
    assert typed_ids(TINY, "<|python_start|>1") == [special("<|python_start|>"), *TINY.encode("1")]
    assert end_id(TINY) == special("<|assistant_end|>")
    model = chat_model("qwen2_5")
    assert model.tokenizer.spell([end_id(model.tokenizer) or 0]) == "<|im_end|>"
