"""Work in an order of its own: the same values, and one large array at a time."""

import gc

import mlx.core as mx

from grpo_cli.cpu.lazy import after

LARGE = (1 << 10, 1 << 10)


def maxima(in_order: bool) -> list[mx.array]:
    """Maxima of five large arrays, each of which needs the one before only `in_order`."""
    found: list[mx.array] = []
    for place in range(5):
        start = after(mx.array(float(place)), found[-1:] if in_order else [])
        large = mx.broadcast_to(start, LARGE) + 1.0
        found.append((large * large).max())
    return found


def test_one_after_the_other_gives_the_same_values() -> None:
    expected = [float((place + 1) ** 2) for place in range(5)]
    for in_order in (False, True):
        mx.clear_cache()
        gc.collect()
        assert [one.item() for one in maxima(in_order)] == expected


def test_a_dependency_makes_work_that_is_not_asked_for() -> None:
    """The earlier array is evaluated with the later one."""
    earlier = mx.ones(LARGE) * 3.0
    before = mx.get_active_memory()
    mx.eval(after(mx.array(1.0), [earlier]))
    assert mx.get_active_memory() - before > 4_000_000  # 4 bytes a number
    assert earlier[0, 0].item() == 3.0


def test_nothing_earlier_is_the_array_itself() -> None:
    array = mx.array([1.0])
    assert after(array, []) is array
