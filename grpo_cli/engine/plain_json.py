"""JSON that can always be written: whatever stands in a text, and whatever a number is.

    encoded({"text": "half an emoji: \\ud83d"})      # b'{"text": "half an emoji: \\\\ud83d"}'

Half a surrogate pair, which no encoding has, is written as JSON's own escape and reads back as it was.
"""

import json
import math
from typing import Any


def encoded(value: Any) -> bytes:
    """A value as one line of UTF-8. NaN and infinities stand as Python writes and reads them."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def encoded_strictly(value: Any) -> bytes:
    """The same for readers of any language: what is no finite number is null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    except ValueError:
        return encoded(finite(value))


def finite(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
