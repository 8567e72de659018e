"""Read a pickle as data: an interpreter for its operations that imports and runs nothing.

A pickle is a program, and plain `pickle.load` executes whatever it names. Here it can only build text,
bytes, numbers, tuples, lists and dictionaries, and use only names in the caller's table:

    read_pickle(data, {"collections.OrderedDict": dict})

A name outside the table is refused before anything is called. Time and memory are
linear in the size of the pickle: the memo is a dictionary (the standard unpickler allocates as much
as the largest memo index asks for), and only text and bytes may be keys (hashing nested tuples can
take forever or overflow the stack, and colliding numbers make a dictionary quadratic).
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

PUSHED_AS_READ = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
LONGEST_NAME_SHOWN = 120
DEEPEST_MARK = 1000  # each open mark costs far more memory than its byte


class RefusedPickle(ValueError):
    """A pickle that is damaged, contains something unexpected, or uses a name that is not allowed."""


def no_outside_objects(_pid: Any) -> Any:
    """Refuse references to external objects, for self-contained pickles."""
    raise RefusedPickle("it refers to an object outside the file")


def read_pickle(
    data: bytes,
    allowed: Mapping[str, Any],
    purpose: str,
    persistent: Callable[[Any], Any] = no_outside_objects,
) -> Any:
    """The object built by a pickle of protocol 0 to 5.

    `allowed` maps permitted dotted names to stand-ins: a callable that gets the pickle's arguments and may
    also have `__setstate__`. `purpose` completes the refusal of a name: "which a tokenizer has no use for".
    `persistent` converts a persistent id to an object. Raises RefusedPickle for any other input.
    """
    reader = _Reader(allowed, purpose, persistent)
    try:
        return reader.run(data)
    except RefusedPickle:
        raise
    except (ValueError, LookupError, MemoryError, OverflowError) as error:  # not a pickle
        raise RefusedPickle(f"it is not a readable pickle ({shown(str(error))})") from error


def shown(text: str) -> str:
    """Text from a file made safe to print: no control characters, truncated."""
    safe = text if text.isprintable() else ascii(text)
    return safe if len(safe) <= LONGEST_NAME_SHOWN else safe[:LONGEST_NAME_SHOWN] + "…"


class _Reader:
    """A stack machine for one pickle. `below` has the stacks beneath each open mark."""

    def __init__(self, allowed: Mapping[str, Any], purpose: str, persistent: Callable[[Any], Any]) -> None:
        self.allowed = allowed
        self.purpose = purpose
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(data):
            name = operation.name
            if name in PUSHED_AS_READ:
                self.stack.append(argument)
            elif name == "STOP":
                break
            elif name in OPERATIONS:
                OPERATIONS[name](self, argument)
            else:
                raise RefusedPickle(f"it uses the pickle operation {name}, {self.purpose}")
        if len(self.stack) != 1 or self.below:
            raise RefusedPickle("it is not a readable pickle (it does not end with one object)")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        if len(self.below) == DEEPEST_MARK:
            raise RefusedPickle("it is not a readable pickle (it is nested too deeply)")
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise RefusedPickle("it is not a readable pickle (its stack is empty)")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedPickle(f"it appends to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedPickle(f"it sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes):
                raise RefusedPickle(f"it has a dictionary key of the type {type(key).__name__}")
            target[key] = value

    def dictionary(self, _: Any) -> None:
        items = self.since_mark()
        self.push({})
        self.set_items(items)

    def name(self, argument: str) -> None:
        dotted = argument.replace(" ", ".", 1)
        if dotted not in self.allowed:
            raise RefusedPickle(f"it names {shown(dotted)}, {self.purpose}")
        self.push(self.allowed[dotted])

    def name_on_stack(self, _: Any) -> None:
        module, name = self.last(2)
        if type(module) is not str or type(name) is not str:
            raise RefusedPickle("it names something by a value that is not text")
        self.name(f"{module} {name}")

    def old_instance(self, argument: str) -> None:
        self.name(argument)  # refused by its name if not allowed
        raise RefusedPickle(f"it uses the pickle operation INST, {self.purpose}")

    def call(self, _: Any) -> None:
        function, arguments = self.last(2)
        known = any(function is value for value in self.allowed.values())
        if not known or not callable(function) or type(arguments) is not tuple:
            raise RefusedPickle(f"it calls a {type(function).__name__}, {self.purpose}")
        try:
            self.push(function(*arguments))
        except TypeError as error:
            raise RefusedPickle(f"it calls with wrong arguments ({shown(str(error))})") from error

    def build(self, _: Any) -> None:
        (state,) = self.last(1)
        set_state = getattr(type(self.stack[-1]), "__setstate__", None)
        if set_state is None or type(self.stack[-1]) not in self.allowed.values():
            raise RefusedPickle(f"it sets the state of a {type(self.stack[-1]).__name__}")
        set_state(self.stack[-1], state)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])


def _check_protocol(_: _Reader, version: int) -> None:
    if version > 5:
        raise RefusedPickle(f"it is a pickle of the unknown protocol {version}")


OPERATIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": _check_protocol,
    "FRAME": lambda _reader, _size: None,
    "NONE": lambda reader, _: reader.push(None),
    "NEWTRUE": lambda reader, _: reader.push(True),
    "NEWFALSE": lambda reader, _: reader.push(False),
    "MARK": _Reader.mark,
    "EMPTY_TUPLE": lambda reader, _: reader.push(()),
    "TUPLE1": lambda reader, _: reader.push(tuple(reader.last(1))),
    "TUPLE2": lambda reader, _: reader.push(tuple(reader.last(2))),
    "TUPLE3": lambda reader, _: reader.push(tuple(reader.last(3))),
    "TUPLE": lambda reader, _: reader.push(tuple(reader.since_mark())),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "LIST": lambda reader, _: reader.push(reader.since_mark()),
    "APPEND": lambda reader, _: reader.append(reader.last(1)),
    "APPENDS": lambda reader, _: reader.append(reader.since_mark()),
    "EMPTY_DICT": lambda reader, _: reader.push({}),
    "DICT": _Reader.dictionary,
    "SETITEM": lambda reader, _: reader.set_items(reader.last(2)),
    "SETITEMS": lambda reader, _: reader.set_items(reader.since_mark()),
    "PUT": _Reader.put,
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": _Reader.memoize,
    "GET": _Reader.get,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "GLOBAL": _Reader.name,
    "STACK_GLOBAL": _Reader.name_on_stack,
    "INST": _Reader.old_instance,
    "REDUCE": _Reader.call,
    "NEWOBJ": _Reader.call,
    "BUILD": _Reader.build,
    "BINPERSID": lambda reader, _: reader.push(reader.persistent(reader.last(1)[0])),
    "PERSID": lambda reader, pid: reader.push(reader.persistent(pid)),
}
