"""Counts in words.

plural(1, "step")               # "1 step"
plural(12_000, "example")       # "12,000 examples"
"""


def plural(count: int, noun: str) -> str:
    """A count with its noun; the nouns here take an s."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
