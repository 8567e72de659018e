"""The garbage collector is off within the block, and as it was after it."""

import gc

import pytest

from grpo_cli.uncollected import uncollected


def test_it_is_off_within_the_block() -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()  # the inner block found it off
    assert gc.isenabled()


def test_an_error_leaves_it_on() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
