"""Versions, by hand."""

from grpo_cli.doctor.read.versions import is_older, release


def test_versions_are_compared_by_their_numbers() -> None:
    assert release("0.32.2rc1") == (0, 32, 2)
    assert not is_older("0.32.10", "0.32.2")
    assert not is_older("1.0", "1.0.0")
    assert is_older("0.9", "0.32.2")
    assert is_older("unknown", "0.1")
