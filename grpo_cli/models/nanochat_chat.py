"""nanochat's chat format: conversations as token ids, with a mask of the assistant's own tokens.

    <|bos|><|user_start|>What is 247 + 538?<|user_end|><|assistant_start|>785<|assistant_end|>
                                                                          1  1

Turns follow each other without newlines, and a system message is put before the first user message
with an empty line between. Message text is encoded ordinarily: a special token's spelling inside it
stays plain text, which a chat template cannot express. An assistant's message may be a list of parts:
text, a `python` expression that it wrote, and the `python_output` that was put in for it, which it did
not write and is never trained on. Source: karpathy/nanochat, nanochat/tokenizer.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_cli.errors import ModelError

Encode = Callable[[str], list[int]]

# The tokens around each kind of part, and True if the assistant writes the part.
PARTS = {
    "text": ((), True),
    "python": (("<|python_start|>", "<|python_end|>"), True),
    "python_output": (("<|output_start|>", "<|output_end|>"), False),
}


def render(
    messages: Sequence[Mapping[str, Any]], encode: Encode, special: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """Ids (T,) of a conversation and its mask (T,): 1 for tokens written by the assistant.

    The assistant's end token is one of them. Raises ModelError for messages that the format cannot express.
    """
    ids, mask = [special["<|bos|>"]], [0]
    for role, content in turns(messages):
        ids.append(special[f"<|{role}_start|>"])
        mask.append(0)
        for part_ids, own in _parts(role, content, encode, special):
            ids += part_ids
            mask += [int(own)] * len(part_ids)
        ids.append(special[f"<|{role}_end|>"])
        mask.append(int(role == "assistant"))
    return ids, mask


def _parts(
    role: str, content: Any, encode: Encode, special: Mapping[str, int]
) -> list[tuple[list[int], bool]]:
    """The ids of a message's parts, each with True if the assistant wrote it."""
    if isinstance(content, str):
        return [(encode(content), role == "assistant")]
    if role != "assistant" or not isinstance(content, list):
        raise ModelError(
            f"The {role}'s message is not text: {content!r}",
            "write every message as text",
            trouble="chat-template",
        )
    found = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in PARTS:
            raise ModelError(
                f"nanochat's chat format has no parts of type {kind!r}",
                f"use {', '.join(f'`{name}`' for name in PARTS)}",
                trouble="chat-template",
            )
        around, own = PARTS[kind]
        before, after = [special[name] for name in around[:1]], [special[name] for name in around[1:]]
        found.append(([*before, *encode(part["text"]), *after], own))
    return found


def turns(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """(role, content) of each turn, the system message merged into the first user message."""
    found = [(message["role"], message["content"]) for message in messages]
    if found and found[0][0] == "system":
        if len(found) < 2 or found[1][0] != "user":
            raise ModelError(
                "nanochat's chat format allows no system message without a user message after it",
                "put a user message second",
                trouble="chat-template",
            )
        found = [("user", f"{found[0][1]}\n\n{found[1][1]}"), *found[2:]]
    for role, _ in found:
        if role not in ("user", "assistant"):
            raise ModelError(
                f"nanochat's chat format does not allow the role {role!r} here",
                "use `user` and `assistant`, and at most one `system` message, at the beginning",
                trouble="chat-template",
            )
    return found
