r"""Text that can also be indexed as chat messages, so that rewards of both kinds work unchanged.

    completion = ChatText("The answer is 7", [{"role": "assistant", "content": "The answer is 7"}])
    len(completion), "7" in completion, re.search(r"\d+", completion)[0]     →  15, True, "7"
    completion[0]["content"], completion[-1]["role"]                         →  "The answer is 7", "assistant"

For a text prompt, TRL passes texts; MLX-GRPO and the GSM8K scripts pass lists of one message. Rewards
written for either are common. A list would silently report length 1 for every completion,
so here a completion is the text. Code that needs a list of messages, such as
`for message in completion`, raises on a text; datasets whose prompts are lists of messages get lists.
"""

import operator
from collections.abc import ItemsView, KeysView, Sequence
from typing import Any, SupportsIndex

from grpo_cli.types import Message


class ChatText(str):
    """A text whose items 0, 1, … (also from the end) also act as the message at that index."""

    messages: list[Message]

    def __new__(cls, text: str, messages: Sequence[Message]) -> "ChatText":
        made = super().__new__(cls, text)
        made.messages = [dict(message) for message in messages]
        return made

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if isinstance(key, slice):
            return super().__getitem__(key)
        place = operator.index(key)
        if not -len(self.messages) <= place < len(self.messages):
            return super().__getitem__(place)
        is_inside = -len(self) <= place < len(self)  # an empty completion also has a message
        return MessageCharacter(super().__getitem__(place) if is_inside else "", self.messages[place])

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatText, (str(self), self.messages)


class MessageCharacter(str):
    """One character of a text that also acts as a message: `["content"]`, `.get("role")`."""

    message: Message

    def __new__(cls, character: str, message: Message) -> "MessageCharacter":
        made = super().__new__(cls, character)
        made.message = message
        return made

    def __getitem__(self, key: Any) -> str:
        return self.message[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self.message or (isinstance(key, str) and super().__contains__(key))

    def get(self, key: str, default: Any = None) -> Any:
        """The message's `role` or `content`."""
        return self.message.get(key, default)

    def keys(self) -> KeysView[str]:
        """The message's keys: `role` and `content`."""
        return self.message.keys()

    def items(self) -> ItemsView[str, str]:
        """The message's items: `role` and `content`."""
        return self.message.items()

    def __reduce__(self) -> tuple[Any, ...]:
        return MessageCharacter, (str(self), self.message)
