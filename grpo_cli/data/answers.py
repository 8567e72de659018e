"""The right answer of a row as a text, which rewards and the evaluation compare with.

"48 + 24 = 72\\n#### 72" → "72"     18.0 → "18.0"     True → "True"     ["72"] → "72"
"""

import datetime
import json
import math
from decimal import Decimal
from typing import Any

from grpo_cli.data.values import MISSING, check_text, short
from grpo_cli.errors import DataError


def answer_from(value: Any, place: str) -> str:
    """The answer as text: what follows the last `####`, if any; numbers are written out.

    Commas and signs stay (`1,000`, `$18`), since answers are compared as numbers. A list of one item stands
    for that item, any other list becomes JSON. Raises DataError for an empty or unusable value.
    """
    text = answer_text(value)
    if text is None:
        raise DataError(f"No answer: {place} is {short(value)}", hint(value, place))
    if not text:
        raise DataError(f"No answer: {place} is {short(value)}", "remove the row or give it an answer")
    check_text(text, "the answer", place)
    return text


def answer_text(value: Any) -> str | None:
    """The value as text, or None if no completion could express it."""
    if isinstance(value, str):
        return value.rpartition("####")[2].strip()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal):
        return format(Decimal(str(value)), "f") if math.isfinite(value) else None  # never 1e+20
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):  # datetime is a date
        return value.isoformat()
    if isinstance(value, list):
        return answer_text(value[0]) if len(value) == 1 else list_text(value)
    return None


def list_text(values: list[Any]) -> str | None:
    """Several values as JSON; None for an empty list."""
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False) if values else ""
    except (TypeError, ValueError):
        return None


def hint(value: Any, place: str) -> str:
    """The hint for an unusable answer value."""
    if isinstance(value, dict) and value:
        column = place.split("`")[1]
        return f'name one of its values: `answer_column = "{column}.{next(iter(value))}"`'
    missing = "; remove the row or give it an answer" if value is None or value is MISSING else ""
    return f"an answer is text, a number, true or false, or a list of these{missing}"
