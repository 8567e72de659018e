"""Counts with nouns in messages.

plural(1, "step")               # "1 step"
plural(12_000, "example")       # "12,000 examples"
"""


def plural(count: int, noun: str) -> str:
    """A count with its noun, for nouns whose plural ends in s."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
