"""A short torture; the long one is `python -m tests.bench.torture`."""

from pathlib import Path

from tests.bench.torture import torture


def test_killed_at_random_moments_and_resumed_it_is_the_uninterrupted_run(tmp_path: Path) -> None:
    assert torture(tmp_path, kills=2, seed=1).kills == 2
