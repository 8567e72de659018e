"""Convert a row's prompt into a conversation, from any of the usual dataset formats.

    "What is 2 + 2?"
    [{"role": "user", "content": "What is 2 + 2?"}]
    [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}]
    [{"from": "human", "value": "What is 2 + 2?"}]                               ShareGPT

A final assistant message is not part of the prompt: it would reveal the answer.
"""

from typing import Any

from grpo_cli.data.values import check_text, short
from grpo_cli.errors import DataError
from grpo_cli.types import Message

# Role names in datasets → names in chat templates. `developer` is OpenAI's newer name for `system`.
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
KEPT = ("tool_calls", "tool_call_id", "name")  # fields of a message that templates read besides its text
SHAPE = (
    'a message is {"role": "user", "content": "…"} or {"from": "human", "value": "…"}; the roles are '
    "system, developer, user, assistant and tool; the last message before the answer is the user's or a "
    "tool's"
)


def message(role: str, content: str) -> Message:
    """A chat message."""
    return {"role": role, "content": content}


def text_of(value: Any, place: str) -> str:
    """The value, which must be a non-empty text."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"No text: {place} is {short(value)}", "give the row a text, or remove it")
    check_text(value, "a text", place)
    return value


def conversation_from(prompt: Any, place: str) -> tuple[list[Message], str | None]:
    """The messages before the assistant's final turn, and the text of that turn, if any.

    Raises DataError unless the prompt is a text or a list of messages with texts.
    """
    if isinstance(prompt, str) and prompt.strip():
        return [message("user", prompt)], None
    if not isinstance(prompt, list) or not prompt:
        raise DataError(
            f"No prompt: {place} is {short(prompt)}", "a prompt is text or a list of chat messages"
        )
    messages = [message_from(item) for item in prompt]
    whole = [item for item in messages if item is not None]
    last = whole.pop()["content"] if whole and whole[-1]["role"] == "assistant" else None
    if None in messages or not whole or whole[-1]["role"] not in ("user", "tool"):
        raise DataError(f"No conversation: {place} is {short(prompt)}", SHAPE)
    return whole, last


def is_answered(prompt: Any) -> bool:
    """True if the prompt is a conversation that ends with an assistant message."""
    last = message_from(prompt[-1]) if isinstance(prompt, list) and len(prompt) > 1 else None
    return last is not None and last["role"] == "assistant"


def message_from(item: Any) -> Message | None:
    """A dataset's message in the format of chat templates, or None if it is not a message."""
    if not isinstance(item, dict):
        return None
    role = ROLES.get(str(item.get("role", item.get("from"))))
    content = item.get("content") if "role" in item else item.get("value")
    extra = {key: without_nulls(item[key]) for key in KEPT if item.get(key)}
    text = joined(content)
    if text is None and content is None and "tool_calls" in extra:
        text = ""  # a tool call without text
    return None if role is None or text is None else {**message(role, text), **extra}


def joined(content: Any) -> str | None:
    """A message's text; parts of a list are concatenated; None for other content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None


def without_nulls(value: Any) -> Any:
    """The value without null keys: Arrow gives every object the keys of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
