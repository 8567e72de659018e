"""The answers to readings of the machine, by a clock of the test."""

from collections.abc import Iterator

from grpo_cli.engine.host.facts import CRITICAL, WARNING, HostFacts
from grpo_cli.engine.host.pressure import CALM, EVERY, MOST_PAUSE, REST, Answer, PressureWatch

GB = 10**9
SHORT, HOT, FINE = HostFacts(memory=WARNING), HostFacts(heat="97 °C"), HostFacts()
CLEARED = Answer(clears_cache=True, why="memory is short")
HALVED = Answer(clears_cache=True, halves_rows=True, why="memory is short")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watch(*facts: HostFacts, pauses: str = "pressure|heat") -> tuple[PressureWatch, Clock]:
    readings: Iterator[HostFacts] = iter(facts)
    clock = Clock()
    return PressureWatch(pauses={*pauses.split("|")}, read=lambda: next(readings), clock=clock), clock


def answers(*facts: HostFacts, pauses: str = "pressure|heat") -> list[Answer]:
    """The answers to one reading a minute."""
    made, clock = watch(*facts, pauses=pauses)
    found = []
    for _ in facts:
        found.append(made.look())
        clock.now += EVERY
    return found


def test_it_reads_once_a_minute() -> None:
    made, clock = watch(FINE, SHORT)  # a third reading would raise StopIteration
    assert [made.look(), made.look()] == [CALM, CALM]
    clock.now = EVERY - 1
    assert made.look() == CALM
    clock.now = EVERY
    assert made.look() == CLEARED
    assert made.look() == CALM


def test_short_memory_clears_then_halves_once_then_pauses() -> None:
    paused = Answer(clears_cache=True, pauses_for="pressure", why="memory is short")
    assert answers(SHORT, SHORT, SHORT) == [CLEARED, HALVED, paused]
    assert answers(SHORT, SHORT, SHORT, pauses="heat") == [CLEARED, HALVED, CLEARED]
    assert answers(SHORT, FINE, SHORT, SHORT) == [CLEARED, CALM, CLEARED, HALVED]
    assert answers(HostFacts(memory=CRITICAL))[0].why == "memory is very short"


def test_swap_that_grows_is_short_memory() -> None:
    def swapped(*gigabytes: float) -> list[str]:
        return [answer.why for answer in answers(*(HostFacts(swapped=int(n * GB)) for n in gigabytes))]

    assert swapped(9, 9, 10.2, 10.2) == ["", "", "1.2 GB were swapped out in a minute", ""]  # 9: from before
    assert swapped(9, 10, 8, 9) == ["", "", "", ""]


def test_swap_is_counted_by_the_minute() -> None:
    """Steps of ten minutes: 3 GB between two readings are 0.3 a minute, 12 GB are 1.2."""
    made, clock = watch(*(HostFacts(swapped=int(n * GB)) for n in (1, 4, 16)))
    found = []
    for _ in range(3):
        found.append(made.look().why)
        clock.now += 10 * EVERY
    assert found == ["", "", "1.2 GB were swapped out in a minute"]


def test_rows_are_halved_twice_in_a_run_at_most() -> None:
    found = answers(*[SHORT, SHORT, FINE] * 4, pauses="")
    assert [answer.halves_rows for answer in found] == [False, True, False] * 2 + [False] * 6
    assert found[-2].clears_cache


def test_heat_pauses_at_its_second_reading() -> None:
    hot = Answer(pauses_for="heat", why="97 °C")
    assert answers(HOT, HOT) == [CALM, hot]
    assert answers(HOT, FINE, HOT) == [CALM] * 3
    assert answers(HOT, HOT, pauses="battery") == [CALM] * 2


def test_a_battery_pauses_at_once_but_only_if_asked() -> None:
    empty = HostFacts(battery="63%")
    assert answers(empty, pauses="battery|heat") == [Answer(pauses_for="battery", why="on battery (63%)")]
    assert answers(empty) == [CALM]


def test_a_pause_ends_with_its_reason_or_after_ten_minutes() -> None:
    made, clock = watch(HOT, SHORT, HostFacts(battery="9%"), FINE)
    assert made.persists("heat", since=0.0)
    assert not made.persists("heat", since=0.0)  # the reading is SHORT: of another reason
    clock.now = MOST_PAUSE
    assert not made.persists("pressure", since=0.0)  # without a reading
    assert made.persists("battery", since=0.0)  # until the charger is back
    assert not made.persists("battery", since=0.0)


def test_after_a_pause_the_next_one_waits() -> None:
    made, clock = watch(*[HOT] * 9)
    made.resumed("heat")
    seen = []
    for clock.now in (EVERY, 2 * EVERY, REST - EVERY, REST):
        seen.append(made.look().pauses_for)
    assert seen == ["", "", "", "heat"]
