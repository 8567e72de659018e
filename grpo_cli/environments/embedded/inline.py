"""Tasks whose tool is called in the middle of a line: an equals sign asks for what stands before it.

    <reasoning>7+8=«15», 4+3+1=«8»</reasoning>        between «» stands what the environment wrote

A call needs no special tokens, so that any model can make it; the result is forced after the equals sign.
"""

import re
from collections.abc import Callable
from typing import Any

from grpo_cli.environments.protocol import Environment
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.rewards.answers import answers_match, extract_answer

# Numbers with signs between them, and the equals sign at the end. A sign at the start may be a list's dash.
CALL = re.compile(r"([0-9.(][0-9.+\-*/() ]*[+\-*/][0-9.+\-*/() ]*)=( *)$")
WINDOW = 200  # characters before an equals sign that are searched for its expression


class InlineTask(Environment):
    """One rollout of a question: its text so far and its calls."""

    result: Callable[[str], str | None]  # the tool; None: it has no result, and nothing is forced

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self.answer = ""
        self.calls = 0  # that had a result
        self.failures = 0  # calls without one

    def reset(self, columns: dict[str, Any]) -> str | None:
        """Begin a question whose right answer is the column `answer`."""
        self.answer = str(columns["answer"])
        return None

    def read(self, token_id: int) -> list[int]:
        """Force the result of a call that the token's equals sign ends."""
        written = self.tokenizer.decode([token_id])
        self.text += written
        call = CALL.search(self.text[-WINDOW:]) if "=" in written else None
        if call is None:
            return []
        result = self.result(call[1].strip())
        if result is None:
            self.failures += 1
            return []
        self.calls += 1
        return self.tokenizer.encode(f" {result}" if call[1].endswith(" ") and not call[2] else result)

    def get_reward(self) -> float:
        """1 for a right answer after at least one call, else 0; it stands in `<answer>`, as in evaluation."""
        return float(self.calls > 0 and answers_match(extract_answer(self.text), self.answer))
