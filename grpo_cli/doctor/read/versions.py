"""Comparison of versions: `is_older("0.9", "0.32.2")` is True."""

import re


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparison: (0, 32, 2) for `0.32.2rc1`."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def is_older(version: str, floor: str) -> bool:
    """True if `version` is below `floor`; missing numbers count as 0."""
    mine, least = release(version), release(floor)
    length = max(len(mine), len(least))
    return mine + (0,) * (length - len(mine)) < least + (0,) * (length - len(least))
