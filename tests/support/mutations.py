"""Seeded mutations of files: bytes that disks and downloads change, and values that nobody expects."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

DEEP = "[" * 10_000 + "]" * 10_000
CANARY_MODULE = "canary"  # a module beside the file; importing it leaves a mark
HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 10**9, 10**12, -(10**12), 10**40, 1 << 31, 1 << 63, 0.0, -0.5),
    *(1e308, float("nan"), float("inf"), -float("inf"), "", " ", "x", "0", "1e999", "a\x1b]0;x\x07\x9b2J"),
    *("\u202e", "\ud83d", "\0", "x" * 100_000, "../../../etc/passwd", "/dev/zero", "~/x", "~nobody/x"),
    *(CANARY_MODULE, f"{CANARY_MODULE}.Canary", f"{CANARY_MODULE}.py:f", {"": CANARY_MODULE}, [], {}, [[]]),
    *([None], [1, "a", {}], {"a": 1}, [-1], [10**12], list(range(200)), {"type": "x"}, [[1, 2], [3]]),
]  # fmt: skip


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """A flipped bit, an end cut off, or up to 16 bytes overwritten, taken out or put in."""
    at, run = chance.randrange(len(content)), chance.randint(1, 16)
    match chance.choice(["flip", "cut", "overwrite", "delete", "insert"]):
        case "flip":
            return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "overwrite":
            return content[:at] + chance.randbytes(run) + content[at + run :]
        case "delete":
            return content[:at] + content[at + run :]
        case _:
            return content[:at] + chance.randbytes(run) + content[at:]


def mutated_json(content: bytes, chance: random.Random) -> bytes:
    """One to three values replaced, keys taken out, added or written twice; or bytes changed."""
    if chance.random() < 0.2:
        return mutated_bytes(content, chance)
    document = json.loads(content)
    for _ in range(chance.randint(1, 3)):
        document = _changed(document, chance)
    text = json.dumps(document)
    match chance.randrange(20):
        case 0:  # a key that stands twice
            text = text.replace("{", '{"' + chance.choice(_keys(document)) + '": null, ', 1)
        case 1:
            text = text.replace(": ", f": {DEEP}, {json.dumps(chance.choice(_keys(document)))}: ", 1)
    return text.encode()


def mutated_lines(content: bytes, chance: random.Random) -> bytes:
    """JSON lines, of which some are mutated, written twice or taken out."""
    lines = content.splitlines()
    for place in chance.sample(range(len(lines)), chance.randint(1, 3)):
        lines[place] = chance.choice([mutated_json(lines[place], chance), lines[place] * 2, b""])
    return b"\n".join(lines) + b"\n"


def _keys(document: Any) -> list[str]:
    keys = [key for key in document if key.isidentifier()] if isinstance(document, dict) else []
    return keys or ["a"]


def _changed(document: Any, chance: random.Random) -> Any:
    """The document with one place changed, at any depth."""
    places = list(_places(document, chance))
    if not places:
        return copy.deepcopy(chance.choice(HOSTILE))
    parent, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[str(chance.choice(HOSTILE))[:200]] = parent[key]
        case 2 if isinstance(parent[key], int | float):
            parent[key] = parent[key] * chance.choice([-1, 2, 0.5, 1000]) + chance.choice([0, 1, -1])
        case _:
            parent[key] = copy.deepcopy(chance.choice(HOSTILE))
    return document


def _places(document: Any, chance: random.Random) -> Iterator[tuple[Any, Any]]:
    """Every container and key; of long ones some, so that a vocabulary does not drown the rest."""
    keys = (
        list(document)
        if isinstance(document, dict)
        else list(range(len(document) if isinstance(document, list) else 0))
    )
    for key in keys if len(keys) <= 50 else chance.sample(keys, 5):
        yield document, key
        yield from _places(document[key], chance)
