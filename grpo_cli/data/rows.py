"""Turn a dataset's rows into examples: the prompt, the answer, and all columns for the rewards.

{"question": "How many …?", "answer": "48 + 24 = 72\\n#### 72", "level": 1}
→  Example([{"role": "user", "content": "How many …?"}], "72", {"question": …, "answer": …, "level": 1})

`columns` has every value of the row unchanged, and None for columns that the row lacks; messages
and answer are derived from them.
A key may name a path inside a column: `answer_column = "reward_model.ground_truth"`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.data.answers import answer_from
from grpo_cli.data.conversation import conversation_from, is_answered, message, text_of
from grpo_cli.data.values import MISSING, column_paths, lookup, nearest_column
from grpo_cli.errors import DataError
from grpo_cli.types import Example, Message

Tell = Callable[[str], None]  # reports a notice to the user


@dataclass(frozen=True, slots=True)
class Row:
    """A dataset's row and its location: `line 4 of data/test.jsonl`."""

    values: dict[str, Any]
    unit: str  # "line", "row" or "item"
    number: int  # counted from 1
    file: str  # or the name of a hub dataset

    @property
    def place(self) -> str:
        """The row's location for messages."""
        return f"{self.unit} {self.number} of {self.file}"


def silence(text: str) -> None:
    """Discard the notice."""


def examples_from(rows: list[Row], config: Config, split: str, tell: Tell = silence) -> list[Example]:
    """Convert rows to examples. Raises DataError that names the column, or the split, file and row."""
    uses = Columns(config, split, rows)
    for notice in uses.notices():
        tell(notice)
    return [uses.example(row) for row in rows]


class Columns:
    """The role of each column of a split."""

    def __init__(self, config: Config, split: str, rows: list[Row]) -> None:
        """Raises DataError if the prompt or answer column does not exist."""
        self.config, self.split, self.rows = config, split, rows
        self.existing: dict[str, Any] = dict.fromkeys(name for row in rows for name in row.values)
        self.require("prompt_column", config.prompt_column)
        last_is_answer = any(is_answered(self.prompt(row)) for row in rows)
        self.takes_last = bool(config.answer_column) and last_is_answer and not self.has(config.answer_column)
        if config.answer_column and not self.takes_last:
            self.require("answer_column", config.answer_column)
        self.drops_last = last_is_answer and not self.takes_last
        self.has_system = bool(config.system_column) and self.has(config.system_column)

    def has(self, path: str) -> bool:
        """True if any row has a value at the path."""
        return path in self.existing or any(lookup(row.values, path) is not MISSING for row in self.rows)

    def require(self, key: str, path: str) -> None:
        """Raise DataError if no row has the column that a key names."""
        if self.has(path):
            return
        existing = column_paths(self.rows[0].values, self.existing) if self.rows else []
        near = nearest_column(key, path, existing)
        suggestion = f'did you mean `{key} = "{near}"`? ' if near else f"set `{key}` to one of them: "
        without = '; for a dataset without answers `answer_column = ""`' if key == "answer_column" else ""
        raise DataError(
            f"Column not found: `{path}` in {self.config.dataset}, split `{self.split}`",
            f"{suggestion}its columns: {', '.join(existing) or 'none'}{without}",
        )

    def notices(self) -> list[str]:
        """Notices about how the columns are used."""
        prompt, answer = self.config.prompt_column, self.config.answer_column
        found = []
        if self.takes_last:
            found.append(
                f"split `{self.split}`: there is no column `{answer}`, so the assistant's last message in "
                f"`{prompt}` is the answer and not part of the prompt"
            )
        if self.drops_last:
            found.append(
                f"split `{self.split}`: the assistant's last message in `{prompt}` is not part of the "
                "prompt; " + (f"the answer is `{answer}`" if answer else "the dataset has no answers")
            )
        if self.has_system and self.config.prompt_format == "chat":
            found.append(f"split `{self.split}`: system messages come from the column `{self.system}`")
        return found

    @property
    def system(self) -> str:
        """The column with system messages."""
        return self.config.system_column

    def prompt(self, row: Row) -> Any:
        """The raw prompt of the row."""
        return lookup(row.values, self.config.prompt_column)

    def place(self, column: str, row: Row) -> str:
        """A cell's location for an error message."""
        return f"`{column}` in {row.place}, split `{self.split}`,"

    def example(self, row: Row) -> Example:
        """One row as an example."""
        config = self.config
        prompt = self.prompt(row)
        place = self.place(config.prompt_column, row)
        if config.prompt_format == "text":
            messages, last = [message("user", text_of(prompt, place))], None
        else:
            messages, last = conversation_from(prompt, place)
            messages = self.with_system(messages, row)
        return Example(
            messages=messages,
            answer=self.answer(row, last),
            columns=self.existing | row.values,
            place=f"{row.place}, split `{self.split}`",
            prompt_text=prompt if isinstance(prompt, str) else None,
        )

    def answer(self, row: Row, last: str | None) -> str:
        """The row's answer as text; empty for a dataset without answers."""
        column = self.config.answer_column
        if not column:
            return ""
        if self.takes_last:
            place = self.place(self.config.prompt_column, row)
            return answer_from(MISSING if last is None else last, f"the assistant's last message in {place}")
        return answer_from(lookup(row.values, column), self.place(column, row))

    def with_system(self, messages: list[Message], row: Row) -> list[Message]:
        """The conversation with the system message of its row or the configuration, unless it has its own."""
        own = lookup(row.values, self.system) if self.has_system else None
        text = self.config.system_prompt
        if own is not MISSING and own not in (None, ""):
            text = text_of(own, self.place(self.system, row))
        return with_system(messages, text)


def with_system(messages: list[Message], text: str) -> list[Message]:
    """Prepend a system message, unless the conversation has one or the text is empty."""
    if not text or messages[0]["role"] == "system":
        return messages
    return [message("system", text), *messages]
