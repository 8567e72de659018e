"""Connections between ranks alongside MLX, with JSON lines; they show a rank that another one is gone.

    links = open_links(place, seconds=60.0)      # one for each neighbour, all alive and greeted
    links[1].send({"…": …})
    for line in links[1].lines(): …               # ends when the other rank is gone

MLX's collectives wait forever for a missing rank, and hold Python's GIL while they connect. So
ranks meet here first, with a time limit.
"""

import contextlib
import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from grpo_cli.distributed.topology import Address, RankInfo
from grpo_cli.errors import TrainingError
from grpo_cli.untrusted_json import DamagedFile, Schema, parse, parse_as

LONGEST = 1 << 20  # maximum bytes of a line
GREETING = 5.0  # seconds for a caller to introduce itself
RETRY_SECONDS = 0.1  # seconds between two calls to a rank that is not listening yet
QUIET = 20.0  # seconds of waiting between two messages to the user


class Patience:
    """The remaining time to wait; sends the user a message every QUIET seconds."""

    def __init__(self, seconds: float, on_wait: Callable[[str], None]) -> None:
        self._deadline = time.monotonic() + seconds
        self._next_word = time.monotonic() + QUIET
        self._on_wait = on_wait

    @property
    def left(self) -> float:
        """Remaining seconds; not positive once the wait is over."""
        return self._deadline - time.monotonic()

    def wait_for(self, what: str) -> bool:
        """True while there is time left to wait for something; reports it from time to time."""
        if time.monotonic() >= self._next_word:
            self._next_word = time.monotonic() + QUIET
            self._on_wait(f"waiting for {what}; {self.left:.0f} s left")
        return self.left > 0


class Greeting(Schema):
    """The first line on a connection."""

    rank: int
    size: int


class Link:
    """A connection to another rank, and the rank number in its greeting."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()
        self.rank = -1

    def introduce(self, place: RankInfo) -> None:
        """Send our greeting. Raises OSError if the other rank is gone."""
        self.send({"rank": place.rank, "size": place.size})

    def recognize(self, place: RankInfo, seconds: float) -> None:
        """Receive the greeting. Raises OSError (TimeoutError) if there is none, ValueError for a stranger."""
        self._connection.settimeout(max(seconds, 0.1))
        greeting = parse_as(Greeting, self._reader.readline(LONGEST))
        if greeting.size != place.size:
            raise ValueError(f"it belongs to a run of {greeting.size} ranks")
        self.rank = greeting.rank
        self._connection.settimeout(None)

    def send(self, message: Any) -> None:
        """Send a message. Raises OSError if the other rank is gone."""
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def lines(self) -> Iterator[Any]:
        """Messages of the other rank, until it is gone."""
        try:
            while line := self._reader.readline(LONGEST):
                yield parse(line)
        except (OSError, DamagedFile):  # cut off, perhaps in the middle of a line
            return

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):  # it is closed already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def open_links(
    place: RankInfo, seconds: float, on_wait: Callable[[str], None] = lambda _: None
) -> dict[int, Link]:
    """Connect with all neighbours.

    Every rank answers its callers before it waits for an answer: otherwise all would wait forever on a ring.
    Raises TrainingError for a port in use, for a rank that does not come within `seconds`, and for a
    stranger.
    """
    patience = Patience(seconds, on_wait)
    listening = listen(place.listens_on) if place.listens_on else None
    try:
        called = {rank: call(place, rank, address, patience) for rank, address in place.calls.items()}
        calling = [answer(place, listening, patience) for _ in place.callers if listening]
    finally:
        if listening:
            listening.close()
    for rank, link in called.items():
        recognize(place, rank, link, patience)
    return numbered(place, [*called.values(), *calling])


def numbered(place: RankInfo, links: list[Link]) -> dict[int, Link]:
    """The links by number: two ranks on a ring have two. Raises TrainingError for a wrong neighbour."""
    expected = sorted([*place.calls, *place.callers])
    if sorted(link.rank for link in links) != expected:
        found = ", ".join(str(link.rank) for link in links)
        raise met_others(f"rank {place.rank} waited for {expected} but met {found}")
    return dict(enumerate(links))


def listen(address: Address) -> socket.socket:
    """Listen on an address. Raises TrainingError if that fails."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host, address.port))
    except OSError as error:
        listening.close()
        raise cannot_listen(address, error) from error
    listening.listen()
    return listening


def call(place: RankInfo, rank: int, address: Address, patience: Patience) -> Link:
    """Call another rank until it answers. Raises TrainingError when patience runs out."""
    reason = "it does not answer"
    while patience.wait_for(f"rank {rank} ({address}): {reason}"):
        try:
            timeout = min(QUIET, patience.left)
            link = Link(socket.create_connection((address.host, address.port), timeout=max(timeout, 0.1)))
            link.introduce(place)
        except OSError as error:  # not there yet
            reason = error.strerror or str(error) or reason
            time.sleep(RETRY_SECONDS)
            continue
        return link
    raise absent(rank, str(address), reason)


def recognize(place: RankInfo, rank: int, link: Link, patience: Patience) -> None:
    """Check the answer of a called rank. Raises TrainingError if it is another rank, or none."""
    try:
        link.recognize(place, patience.left)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise met_others(f"in place of rank {rank}: {error}") from error
    except OSError as error:
        raise absent(rank, str(place.calls[rank]), error.strerror or "it does not answer") from error


def answer(place: RankInfo, listening: socket.socket, patience: Patience) -> Link:
    """Wait for a rank's call and reject strangers. Raises TrainingError when patience runs out."""
    while patience.wait_for(f"rank {place.callers[0]}, which should call"):
        listening.settimeout(max(min(QUIET, patience.left), 0.1))
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        link = Link(connection)
        try:
            link.recognize(place, min(patience.left, GREETING))
            if link.rank not in place.callers:
                raise ValueError(f"rank {link.rank} does not call here")
            link.introduce(place)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError):
            link.close()
            continue
        return link
    raise absent(place.callers[0], "which should call this one", "it did not call")


def absent(rank: int, where: str, reason: str) -> TrainingError:
    """The error for a missing rank."""
    return TrainingError(
        f"Rank {rank} ({where}) cannot be reached: {reason}",
        "look for its own error above or on its machine; check that `grpo` is installed there, that no "
        "firewall blocks the ports, and that the host file has the address of the cable between the two: "
        "`grpo doctor --hosts FILE` checks each",
        trouble="several-machines",
    )


def met_others(what: str) -> TrainingError:
    """The error for ranks of another run."""
    return TrainingError(
        f"The ranks do not belong to the same run: {what}",
        "another run uses these ports: start this one with another `--starting-port`",
        trouble="several-machines",
    )


def cannot_listen(address: Address, error: OSError) -> TrainingError:
    """The error for an address that a rank cannot listen on."""
    if error.errno == errno.EADDRINUSE:
        return TrainingError(
            f"Port {address.port} of {address.host} is in use",
            "another run uses it, or an earlier run has not ended yet: wait, or use `--starting-port 42323`",
            trouble="several-machines",
        )
    return TrainingError(
        f"Cannot listen on {address}: {error.strerror}",
        "the host file names an address that this machine does not have: `grpo doctor --hosts FILE`",
        trouble="several-machines",
    )
