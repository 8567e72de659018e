"""Turn a dataset's rows into examples: the prompt, the answer, and the other columns for the rewards.

{"question": "How many …?", "answer": "48 + 24 = 72\\n#### 72", "level": 1}
→  Example([{"role": "user", "content": "How many …?"}], "72", {"level": 1})
"""

import math
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.errors import DataError
from grpo_cli.types import Example, Message

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")


def examples_from(rows: list[Row], config: Config) -> list[Example]:
    """The rows as examples. Raises DataError that names the column, or the row, counted from 1."""
    require_columns(rows, config)
    return [example_from(row, config, number) for number, row in enumerate(rows, start=1)]


def require_columns(rows: list[Row], config: Config) -> None:
    """Check that the prompt and the answer column exist in the dataset."""
    existing = list(dict.fromkeys(column for row in rows for column in row))
    for key in ("prompt_column", "answer_column"):
        wanted = getattr(config, key)
        if wanted not in existing:
            near = get_close_matches(wanted, existing, n=1)
            suggestion = f'did you mean `{key} = "{near[0]}"`? ' if near else f"set `{key}` to one of them: "
            raise DataError(
                f"Column not found: `{wanted}` in {config.dataset}",
                f"{suggestion}its columns: {', '.join(existing) or 'none'}",
            )


def example_from(row: Row, config: Config, number: int) -> Example:
    """One row as an example."""
    place = f"row {number} of {config.dataset}"
    return Example(
        messages_from(row.get(config.prompt_column), f"`{config.prompt_column}` in {place}"),
        answer_from(row.get(config.answer_column), f"`{config.answer_column}` in {place}"),
        {key: row[key] for key in row if key not in (config.prompt_column, config.answer_column)},
    )


def messages_from(prompt: Any, place: str) -> list[Message]:
    """The prompt as a conversation that ends with the user: a text, or a list of chat messages."""
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise DataError(
            f"No prompt: {place} is {short(prompt)}", "a prompt is a text or a list of chat messages"
        )
    if not all(is_message(message) for message in prompt) or prompt[-1]["role"] != "user":
        raise DataError(
            f"No conversation: {place} is {short(prompt)}",
            'a message is {"role": "user", "content": "…"}; the roles are system, user and assistant, '
            "the last message is the user's",
        )
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def is_message(message: Any) -> bool:
    """Whether it is a chat message with a text."""
    return (
        isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
    )


def answer_from(answer: Any, place: str) -> str:
    """The right answer as a text: what follows the last `####`, if there is one; numbers written out.

    Commas and signs stay (`1,000`, `$18`): answers are compared as numbers.
    """
    if isinstance(answer, str):
        text = answer.rpartition("####")[2].strip()
    elif isinstance(answer, float | Decimal) and math.isfinite(answer):
        text = format(Decimal(str(answer)), "f")  # never 1e+20
    elif isinstance(answer, int) and not isinstance(answer, bool):
        text = str(answer)
    else:
        raise DataError(f"No answer: {place} is {short(answer)}", "an answer is a text or a number")
    if not text:
        raise DataError(f"No answer: {place} is {short(answer)}", "remove the row or give it an answer")
    return text


def short(value: Any) -> str:
    """The value for an error's text, cut after 80 characters."""
    text = "missing or null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
