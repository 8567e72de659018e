"""The calculator's rules once more, evaluated by Python itself: for tests only."""

import string
import warnings


def by_python(expression: str) -> str | None:
    """The rules once more, by Python's own `eval`; results with a memory address count as none."""
    text = "".join(character for character in expression if character != ",")
    if all(character in string.digits + "*+-/.() " for character in text):
        allowed = "**" not in text
    else:
        words = (
            "__ import exec eval compile open file input raw_input globals locals vars dir getattr setattr"
        )
        allowed = (
            all(character in string.ascii_letters + string.digits + "'\"()._ " for character in text)
            and not any(word in text.lower() for word in [*words.split(), "delattr", "hasattr"])
            and text.find(".count(") >= 0
        )
    if not allowed:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = eval(text, {"__builtins__": {}}, {})
    except Exception:
        return None
    if result is None or " at 0x" in str(result):
        return None
    return str(result)
