"""Output that nobody reads, or that cannot be written, holds and ends nobody."""

import io
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from grpo_cli import outlet
from grpo_cli.outlet import MOST_WAITING, Outlet, hold_nobody, lasting


@pytest.fixture
def pipe() -> Iterator[tuple[io.BufferedReader, io.TextIOWrapper]]:
    """Both ends of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w", encoding="utf-8") as writer:
        yield reader, writer


def read_all(reader: io.BufferedReader, out: Outlet, writer: io.TextIOWrapper) -> str:
    """What comes out of the pipe until the outlet has nothing left."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(reader.read()))
    thread.start()
    out.drain()
    writer.close()
    thread.join()
    return got[0].decode()


def test_what_is_written_comes_out_in_its_order(pipe: tuple[io.BufferedReader, io.TextIOWrapper]) -> None:
    out = Outlet(pipe[1])
    for number in range(100):
        print(number, "é", "\ud83d", file=out)
    assert read_all(pipe[0], out, pipe[1]) == "".join(f"{number} é \\ud83d\n" for number in range(100))


def test_a_reader_that_pauses_holds_nobody_and_misses_the_oldest_progress_only(
    pipe: tuple[io.BufferedReader, io.TextIOWrapper],
) -> None:
    out, line = Outlet(pipe[1]), "x" * 1000
    for number in range(1000):  # 1 MB: more than pipe and queue hold
        print(f"{number} {line}", file=out)
        if number % 100 == 50:
            with lasting():
                print(f"notice {number}", file=out)
    assert out.is_behind
    said = read_all(pipe[0], out, pipe[1]).splitlines()
    assert [text for text in said if text.startswith("notice")] == [
        f"notice {n}" for n in range(50, 1000, 100)
    ]
    shown = [int(text.split()[0]) for text in said if text.endswith(line)]
    assert shown == sorted(set(shown)) and shown[-1] == 999
    assert len(shown) * 1000 < 2 * MOST_WAITING
    gaps = [int(text.split()[1]) for text in said if "left out" in text]
    assert 0 <= sum(gaps) - (1000 - len(shown)) <= len(gaps) > 0  # the end of the line before one counts


def test_a_reader_that_is_gone_is_no_error(pipe: tuple[io.BufferedReader, io.TextIOWrapper]) -> None:
    pipe[0].close()
    out = Outlet(pipe[1])
    print("lost", file=out)
    out.drain()
    assert not out.is_behind


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110
def test_a_full_disk_is_no_error() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        out = Outlet(full)
        print("lost", file=out)
        out.drain()
        assert not out.is_behind


def test_the_end_waits_no_longer_than_there_is_progress(
    pipe: tuple[io.BufferedReader, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "STALL_SECONDS", 0.05)
    out = Outlet(pipe[1])
    print("x" * 200_000, file=out)
    out.drain()  # returns, though nobody reads
    assert len(read_all(pipe[0], out, pipe[1])) > 4096


def test_a_stream_without_a_descriptor_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        hold_nobody()
        assert sys.stderr is stream
