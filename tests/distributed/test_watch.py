"""Reasons why a run cannot continue: from recorded states of its ranks; and links in one process."""

import threading
import time
from dataclasses import replace

import pytest

from grpo_cli.distributed import links as links_module
from grpo_cli.distributed import watch as watch_module
from grpo_cli.distributed.links import Patience, open_links
from grpo_cli.distributed.phase import Phase
from grpo_cli.distributed.topology import Address, RankInfo
from grpo_cli.distributed.watch import Status, Watch, find_trouble
from grpo_cli.errors import TrainingError
from tests.support.started_ranks import free_ports
from tests.support.waiting import HANG, NEVER, wait_until

WORKING = Status(rank=0, host="a", beat=9, doing="sampling", idle=1.0, limit=60.0)
OTHER = Status(rank=1, host="b", beat=9, doing="updating", idle=1.0, limit=60.0)


def judged(*table: Status, silences: dict[int, float] | None = None) -> str | None:
    return find_trouble(list(table), 0, silences or {})


def test_all_is_well_while_all_work() -> None:
    assert judged(WORKING, OTHER) is None
    assert judged(WORKING, replace(OTHER, ended="")) is None


def test_what_ended_a_rank_is_the_trouble_but_not_ones_own_end() -> None:
    assert judged(WORKING, replace(OTHER, ended="rank 1 (b) ended: no room")) == "rank 1 (b) ended: no room"
    assert judged(replace(WORKING, ended="rank 0 (a) ended: x"), OTHER) is None


def test_a_rank_hangs_beyond_its_limit_counting_from_its_last_sign() -> None:
    assert judged(WORKING, replace(OTHER, idle=59.0), silences={1: 0.5}) is None
    told = judged(WORKING, replace(OTHER, idle=59.0), silences={1: 2.0})
    assert told == "rank 1 (b) hangs: no sign of work for 61 s while updating"


def test_a_rank_that_waits_does_not_hang_unless_all_wait() -> None:
    waiting = replace(OTHER, doing=Phase.WAITING, idle=500.0)
    assert judged(WORKING, waiting) is None
    assert judged(replace(WORKING, idle=61.0), waiting) == (
        "rank 0 (a) hangs: no sign of work for 61 s while sampling"
    )
    all_wait = judged(replace(WORKING, doing=Phase.WAITING, idle=400.0), waiting)
    assert all_wait == "all ranks have waited for one another for 400 s: the network between them failed"
    assert judged(replace(WORKING, doing=Phase.WAITING, idle=40.0), waiting) is None


def test_a_silent_rank_is_stopped_or_its_network_failed() -> None:
    told = judged(WORKING, replace(OTHER, limit=1800.0), silences={1: 61.0})
    assert told is not None and told.startswith("rank 1 (b) has not been heard from for 61 s")


def ring(size: int) -> list[RankInfo]:
    addresses = tuple(Address("127.0.0.1", port) for port in free_ports(size))
    return [RankInfo(rank=rank, size=size, backend="ring", ring=addresses) for rank in range(size)]


def opened(places: list[RankInfo]) -> list[Watch]:
    """A watch for each place, their links open."""
    watches: dict[int, Watch] = {}

    def begin(place: RankInfo) -> None:
        found = open_links(place, HANG)
        watches[place.rank] = Watch(place.rank, place.size, found, f"host{place.rank}", lambda _: None)

    threads = [threading.Thread(target=begin, args=[place]) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [watches[place.rank] for place in places]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_news_of_a_lost_rank_goes_round_the_ring(size: int) -> None:
    watches = opened(ring(size))

    def everyone_is_known() -> bool:
        return all(watch._table[rank].host == f"host{rank}" for watch in watches for rank in range(size))

    wait_until(everyone_is_known, "news of all ranks")
    for link in watches[1].links.values():  # as the system does for a killed process
        link.close()
    watches[1]._is_closed.set()
    others = [watch for watch in watches if watch.rank != 1]
    wait_until(lambda: all(watch.trouble for watch in others), "the news")
    assert {watch.trouble for watch in others} == {
        "rank 1 (host1) is gone: its process was killed, or its machine or the network failed"
    }
    for watch in others:
        watch.close()


def test_a_goodbye_is_no_trouble_and_an_error_is_told_in_its_words() -> None:
    first, second, third = opened(ring(3))
    third.close()
    time.sleep(3 * watch_module.BEAT)
    assert (first.trouble, second.trouble) == (None, None)
    second.close("rank 1 (host1) ended: no room")
    wait_until(lambda: first.trouble is not None, "the error")
    assert first.trouble == "rank 1 (host1) ended: no room"
    first.close()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_know_that_all_are_there_before_the_first_connects(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """MLX holds Python's lock while it connects, so that no beat comes after that."""
    monkeypatch.setattr(watch_module, "BEAT", NEVER)
    watches = opened(ring(size))
    found: dict[int, str | None] = {}

    def meet(watch: Watch) -> None:
        found[watch.rank] = watch.meet(HANG)

    threads = [threading.Thread(target=meet, args=[watch], daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(found) == size, "the meeting")
    assert found == dict.fromkeys(range(size))
    for watch in watches:
        watch.close()


def test_limits_follow_from_the_longest_pause_of_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: clock[0])
    watch = Watch(0, 1, {}, "host", lambda _: None)
    watch._is_closed.set()
    assert watch._limit("sampling") == watch_module.UNMEASURED
    watch.set_phase(Phase.SAMPLING)
    for clock[0] in (3.0, 23.0, 24.0):
        watch.sign()
    assert watch._limit("sampling") == 100.0  # 5 × 20 s
    assert watch._limit("updating") == watch_module.UNMEASURED
    watch.fixed_limit = 7.0
    assert watch._limit("sampling") == 7.0


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = ring(2)
    with pytest.raises(TrainingError, match=r"^Rank 1 \(127\.0\.0\.1:\d+\) cannot be reached: "):
        open_links(first, 0.3)
    places = ring(2)
    monkeypatch.setattr(links_module, "call", lambda *_: None)  # only waits to be called
    with pytest.raises(TrainingError, match=r"^Rank 1 \(which should call this one\) cannot be reached"):
        open_links(places[0], 0.3)


def test_a_port_in_use_is_named() -> None:
    first, _ = ring(2)
    taken = links_module.listen(first.listens_on)  # type: ignore[arg-type]
    with taken, pytest.raises(TrainingError, match=f"^Port {first.listens_on.port} of 127.0.0.1 is in use"):  # type: ignore[union-attr]
        open_links(first, 0.3)


def test_a_rank_of_another_run_is_turned_away() -> None:
    ours = ring(2)
    stranger = RankInfo(rank=1, size=3, backend="ring", ring=(*ours[0].ring, Address("127.0.0.1", 1)))
    link = None

    def call() -> None:
        nonlocal link
        link = links_module.call(stranger, 0, ours[0].listens_on, Patience(HANG, print))  # type: ignore[arg-type]

    thread = threading.Thread(target=call)
    thread.start()
    with (
        links_module.listen(ours[0].listens_on) as listening,  # type: ignore[arg-type]
        pytest.raises(TrainingError, match="cannot be reached"),
    ):
        links_module.answer(ours[0], listening, Patience(0.5, print))
    thread.join()


@pytest.mark.parametrize(
    ("lower_words", "ending", "told"),
    [
        ("rank 0 (a) ended: no room", "rank 1 (b) ended: no room", True),  # the same error on both
        ("rank 1 (b) ended: no room", "rank 1 (b) ended: no room", False),  # rank 0 only heard of it
        ("", "rank 1 (b) ended: no room", False),
        ("rank 2 (c) is gone", "rank 2 (c) is gone", True),  # news of a third
        ("rank 0 (a) is gone", "rank 0 (a) is gone", False),  # the dead tell nothing
    ],
)
def test_who_tells_of_an_end(lower_words: str, ending: str, told: bool) -> None:
    assert watch_module.tells(0, lower_words, 1, ending) is told
