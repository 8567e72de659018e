"""Tool calls of eight models are parsed, and what is not a call is an error text."""

from importlib import import_module
from random import Random
from typing import Any

import pytest

from grpo_cli.environments.tool_calls import OWN, ParsedTurn, names, parser_for
from grpo_cli.environments.tools import Call
from grpo_cli.errors import ModelError, ToolError
from grpo_cli.models.find import TINY
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from tests.support.chat_models import CHATML, KINDS, SCHEMAS, chat_model, tokenizer_of


def marks(name: str) -> list[str]:
    """The markers around a parser's calls."""
    if name in OWN:
        return {"harmony": ["to=functions.", "<|message|>"], "llama3_json": ['{"name": ', "}"]}[name]
    module = import_module(f"mlx_lm.tool_parsers.{name}")
    return [module.tool_call_start, module.tool_call_end]


PARIS: dict[str, Any] = {"city": "Paris"}
JSON = '<tool_call>\n{"name": "lookup", "arguments": {"city": "Paris"}}\n</tool_call>'
XML = "<tool_call>\n<function=lookup>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
XML_YEAR = XML.replace("</function>", "<parameter=year>\n1999\n</parameter>\n</function>")
MISTRAL = '[TOOL_CALLS] [{"name": "lookup", "arguments": {"city": "Paris"}}'
HARMONY = "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions."

# name: parser, text of one turn, content, arguments of its calls
CASES: list[tuple[str, str, str, str, list[dict[str, Any]]]] = [
    ("qwen2_5", "json_tools", f"I look.\n{JSON}", "I look.", [PARIS]),
    ("qwen2_5", "json_tools", f"{JSON}\n{JSON}", "", [PARIS, PARIS]),
    ("qwen2_5", "json_tools", JSON.removesuffix("\n</tool_call>"), "", [PARIS]),
    ("qwen3", "json_tools", f"<think>\n{JSON}\n</think>\n\n{JSON}", f"<think>\n{JSON}\n</think>", [PARIS]),
    ("qwen3", "json_tools", f"<think>\n{JSON}", f"<think>\n{JSON}", []),
    ("qwen3_5", "qwen3_coder", f"I think.\n</think>\n\n{XML}", "I think.\n</think>", [PARIS]),
    ("qwen3_5", "qwen3_coder", XML_YEAR, "", [{"city": "Paris", "year": 1999}]),
    ("llama3_2", "llama3_json", '{"name": "lookup", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3_2", "llama3_json", '<|python_tag|>{"name": "lookup", "parameters": {}}', "", [{}]),
    ("llama3_2", "llama3_json", 'It is {"name": 1}', 'It is {"name": 1}', []),
    ("mistral", "mistral", f"{MISTRAL}]", "", [PARIS]),
    ("mistral", "mistral", MISTRAL + ', {"name": "lookup", "arguments": {}}]', "", [PARIS, {}]),
    (
        "mistral",
        "mistral",
        'So:[TOOL_CALLS]lookup[ARGS]{"city": "Paris"}[TOOL_CALLS]lookup[ARGS]{}',
        "So:",
        [PARIS, {}],
    ),
    ("hermes", "json_tools", f"{JSON}\n{JSON}", "", [PARIS, PARIS]),
    (
        "gpt_oss",
        "harmony",
        f'{HARMONY}lookup <|constrain|>json<|message|>{{"city": "Paris"}}',
        HARMONY.removesuffix(" to=functions."),
        [PARIS],
    ),
    (
        "gpt_oss",
        "harmony",
        "<|channel|>commentary<|message|>x<|end|><|start|>assistant to=functions.lookup<|channel|>commentary "
        'json<|message|>{"city": "Paris"}',
        "<|channel|>commentary<|message|>x<|end|><|start|>assistant",
        [PARIS],
    ),
    ("lfm2", "pythonic", '<|tool_call_start|>[lookup(city="Paris")]<|tool_call_end|>', "", [PARIS]),
    (
        "lfm2",
        "pythonic",
        '<|tool_call_start|>[lookup(city="Paris"), lookup(city="]")]<|tool_call_end|>Wait.',
        "",
        [PARIS, {"city": "]"}],
    ),
]


@pytest.mark.parametrize(("model", "parser", "text", "content", "arguments"), CASES)
def test_calls_are_parsed(
    model: str, parser: str, text: str, content: str, arguments: list[dict[str, Any]]
) -> None:
    found = parser_for(chat_model(model).tokenizer, schemas=SCHEMAS)
    assert found.name == parser
    calls = [
        Call(name="lookup", arguments=one, id=f"call{number:05d}") for number, one in enumerate(arguments, 2)
    ]
    assert found.parse(text, SCHEMAS, first=2) == ParsedTurn(content, calls, "")


@pytest.mark.parametrize("model", KINDS)
def test_a_turn_without_calls_has_none(model: str) -> None:
    parser = parser_for(chat_model(model).tokenizer, schemas=SCHEMAS)
    for text in ("Paris has 2.1 million.", "", "{", '{"answer": 5}', "</tool_call>"):
        assert parser.parse(text, SCHEMAS) == ParsedTurn(text, [], "")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("qwen2_5", "<tool_call>lookup Paris</tool_call>"),
        ("qwen2_5", "<tool_call>[1, 2]</tool_call>"),
        ("qwen2_5", '<tool_call>"lookup"</tool_call>'),
        ("qwen2_5", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("qwen2_5", '<tool_call>{"name": "a b<|im_end|>", "arguments": {}}</tool_call>'),
        ("qwen2_5", '<tool_call>{"name": "lookup", "arguments": "Paris"}</tool_call>'),
        ("qwen2_5", "<tool_call></tool_call>"),
        ("qwen2_5", "<tool_call>" + "[" * 100_000),
        ("qwen2_5", '<tool_call>{"name": "lookup", "arguments": {"year": ' + "9" * 5000 + "}}</tool_call>"),
        ("qwen3_5", "<tool_call>lookup</tool_call>"),
        ("qwen3_5", XML_YEAR.replace("1999", "MCMXCIX")),
        ("qwen3_5", XML_YEAR.replace("1999", "inf")),
        ("llama3_2", '{"name": "lookup", "parameters": {'),
        ("llama3_2", '{"name": "lookup", "parameters": {}}; {"name": "lookup", "parameters": {}}'),
        ("llama3_2", '{"name": "lookup"}'),
        ("mistral", "[TOOL_CALLS] [{]"),
        ("mistral", "[TOOL_CALLS]"),
        ("gpt_oss", f"{HARMONY}lookup"),
        ("gpt_oss", f"{HARMONY}lookup <|message|>Paris"),
        ("lfm2", "<|tool_call_start|>[" + "(" * 5000 + "<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>lookup Paris<|tool_call_end|>"),
    ],
)
def test_a_call_that_cannot_be_parsed_is_an_error_text(model: str, text: str) -> None:
    found = parser_for(chat_model(model).tokenizer, schemas=SCHEMAS).parse(text, SCHEMAS)
    assert found.calls == []
    assert found.error.startswith("this tool call cannot be parsed: ")
    assert len(found.error) < 200
    assert "\n" not in found.error


def test_a_bad_call_does_not_hide_a_good_one() -> None:
    parser = parser_for(chat_model("qwen2_5").tokenizer)
    found = parser.parse(f"<tool_call>no</tool_call>{JSON}", SCHEMAS)
    assert [call.arguments for call in found.calls] == [PARIS]
    assert found.error.startswith("this tool call cannot be parsed")


@pytest.mark.parametrize(
    ("model", "own", "given"),
    [
        ("qwen2_5", "functions.lookup:0", "functions.lookup:0"),
        ("qwen2_5", "a<|im_end|>", "call00000"),
        ("mistral", "abcDEF123", "abcDEF123"),
        ("mistral", "1", "call00000"),
    ],
)
def test_the_models_own_id_is_kept_if_templates_accept_it(model: str, own: str, given: str) -> None:
    start, end = ("[TOOL_CALLS] [", "]") if model == "mistral" else ("<tool_call>", "</tool_call>")
    text = f'{start}{{"name": "lookup", "arguments": {{}}, "id": "{own}"}}{end}'
    parser = parser_for(chat_model(model).tokenizer)
    assert parser.parse(text, SCHEMAS).calls[0].id == given


def test_a_parser_can_be_named() -> None:
    tokenizer = chat_model("llama3_2").tokenizer
    assert parser_for(tokenizer, "json_tools").parse(JSON, SCHEMAS).calls[0].arguments == PARIS
    with pytest.raises(ToolError, match="Unknown tool_parser: json_tool\n") as caught:
        parser_for(tokenizer, "json_tool")
    assert caught.value.hint.startswith("did you mean `json_tools`? parsers: ")
    with pytest.raises(ToolError, match=r"Unknown tool_parser: os\.path"):
        parser_for(tokenizer, "os.path")


def test_a_model_without_a_syntax_is_refused_by_name() -> None:
    plain = tokenizer_of("{{ messages[0].content }}", CHATML, [], ["<|im_end|>"])
    plain.wrapped._tokenizer.name_or_path = "/models/Plain-1B/"
    for tokenizer in (plain, tokenizer_of(None, CHATML, [], ["<|im_end|>"])):
        with pytest.raises(ModelError, match="has no syntax for tool calls that is known here") as caught:
            parser_for(tokenizer)
        assert '`tool_parser = "json_tools"`' in caught.value.hint
    with pytest.raises(ModelError, match=r"^The model Plain-1B has no syntax"):
        parser_for(plain)
    with pytest.raises(ModelError, match=r"^The model has no syntax"):
        parser_for(NanochatTokenizer.load(TINY))


def test_of_several_templates_the_one_for_tools_counts() -> None:
    template = chat_model("hermes").tokenizer.wrapped.chat_template
    both = tokenizer_of({"default": "{{ messages[0].content }}", "tool_use": template}, *KINDS["hermes"][:3])
    assert not both.wrapped.has_tool_calling
    assert parser_for(both, schemas=SCHEMAS).name == "json_tools"


@pytest.mark.parametrize("name", names())
def test_no_parser_raises_on_what_a_model_in_training_writes(name: str) -> None:
    parser = parser_for(chat_model("qwen3").tokenizer, name)
    pieces = [
        *marks(name),
        *('{"name": "lookup", "arguments": {"city": "Paris"}}', "call:lookup{city:Paris}", "lookup", "inf"),
        *("[lookup(city='Paris', year=1e999)]", "<function=lookup>", "<parameter=year>", "</function>", "\n"),
        *(
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
            "{",
            "}",
            "[",
            "]",
            "(",
            '"',
            "'",
            "\\",
            ",",
        ),
        *(
            "functions.lookup:0",
            "<|tool_call_argument_begin|>",
            "<invoke name=",
            "<parameter name=",
            ">",
            "é\0",
        ),
    ]
    random = Random(0)
    for _ in range(300):
        text = "".join(random.choices(pieces, k=random.randint(1, 12)))
        found = parser.parse(marks(name)[0] + text, SCHEMAS)
        assert all(isinstance(call.arguments, dict) and call.name for call in found.calls)
        assert "\n" not in found.error
