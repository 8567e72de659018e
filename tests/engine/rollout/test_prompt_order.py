"""The order of examples: every epoch holds each once, and position alone decides."""

from grpo_cli.engine.rollout.prompt_order import DataOrder


def test_every_epoch_holds_every_example_once_in_another_order() -> None:
    order = DataOrder(10, seed=0)
    first, second = order.take(0, 10), order.take(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_stream_does_not_depend_on_how_it_is_taken() -> None:
    order = DataOrder(7, seed=3)
    whole = order.take(0, 20)
    assert [index for start in range(0, 20, 4) for index in DataOrder(7, seed=3).take(start, 4)] == whole
    assert DataOrder(7, seed=4).take(0, 20) != whole
