"""Every exception that Python has, one of each class."""

import asyncio
import contextlib
from collections.abc import Iterator

# What the constructors of some classes ask for, tried one after the other.
ARGUMENTS: list[tuple[object, ...]] = [
    ("it broke",),
    ("utf-8", "\ud83d", 0, 1, "it broke"),
    ("utf-8", b"\xff", 0, 1, "it broke"),
    ("\ud83d", 0, 1, "it broke"),
    ("it broke", [KeyboardInterrupt()]),
    ("it broke", [ValueError("within")]),
]


def every_class(base: type[BaseException] = BaseException) -> Iterator[type[BaseException]]:
    """A class of exceptions and all below it that are part of the language itself."""
    yield base
    for below in base.__subclasses__():
        if below.__module__ == "builtins":
            yield from every_class(below)


def made(kind: type[BaseException]) -> BaseException:
    """One of the class, with words where it takes any."""
    for arguments in ARGUMENTS:
        with contextlib.suppress(TypeError, ValueError):
            return kind(*arguments)
    raise TypeError(f"{kind} takes none of the arguments")


EXCEPTIONS = {kind.__name__: kind for kind in (*every_class(), asyncio.CancelledError)}
