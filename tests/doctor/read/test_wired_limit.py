"""A Mac's limit, by hand."""

import pytest

from grpo_cli.doctor.read.wired_limit import MIB, highest_limit, raised

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "highest"),
    [(16 * GIB, 12288), (64 * GIB, 52428), (128 * GIB, 114688), (8 * GIB, 4096)],
)
def test_the_highest_limit_leaves_the_system_enough(memory: int, highest: int) -> None:
    """16 GB: 4 are left. 64 GB: a fifth. 128 GB: 16, as macOS's own default there leaves about that."""
    assert highest_limit(memory) // MIB == highest


def test_a_need_is_rounded_up_to_whole_gib() -> None:
    assert raised(int(11.2 * GIB), 12288 * MIB) == 12 * GIB
    assert raised(int(11.2 * GIB), 12000 * MIB) == 12000 * MIB
