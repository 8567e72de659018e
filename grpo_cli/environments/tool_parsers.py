"""Parsers of tool calls for formats that mlx-lm has none for, in the shape of its `mlx_lm.tool_parsers`.

    parse_harmony('lookup <|constrain|>json<|message|>{"city": "Paris"}')
        →  {"name": "lookup", "arguments": {"city": "Paris"}}

Each takes one call's text without the marker before it, and raises ValueError for anything else.
"""

import json
import re
from typing import Any

# gpt-oss: `<|channel|>commentary to=functions.lookup <|constrain|>json<|message|>{"city": "Paris"}<|call|>`,
# with the recipient before or after the channel.
HARMONY_START = r"to=functions\."
_HARMONY = re.compile(r"(?P<name>[\w.-]+)[^{]*?<\|message\|>(?P<arguments>.*)", re.DOTALL)

# Llama 3: the turn is a JSON object and nothing else, sometimes behind a marker.
LLAMA_START = r'\A\s*(?:<\|python_tag\|>)?\s*(?=\{\s*"(?:name|type|parameters)")'


def parse_harmony(text: str, tools: Any = None) -> dict[str, Any]:  # noqa: ARG001
    """A call of gpt-oss, from the function's name on."""
    found = _HARMONY.match(text)
    if not found:
        raise ValueError("a call needs `<|message|>` and a JSON object")
    return {"name": found["name"], "arguments": json.loads(found["arguments"])}


def parse_llama(text: str, tools: Any = None) -> dict[str, Any]:  # noqa: ARG001
    """A call of Llama 3: its template knows one in a turn."""
    call = json.loads(text)
    if not isinstance(call, dict) or not isinstance(call.get("parameters"), dict):
        raise ValueError('a call is {"name": …, "parameters": {…}}')
    return {"name": call.get("name"), "arguments": call["parameters"]}
