"""Files of others with damaged or hostile content: refused in words, or read as they are.

`python -m tests.bench.hostile_files` tries thousands of each kind.
"""

from pathlib import Path

import pytest

from tests.support.hostile import KINDS, Bench

COUNT = 24


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_are_refused_in_words_or_read(name: str, tmp_path: Path) -> None:
    bench = Bench(KINDS[name], tmp_path / "files")
    outcomes = {seed: bench.outcome(seed) for seed in range(COUNT)}
    assert {seed: found for seed, found in outcomes.items() if found[0] not in ("read", "refused")} == {}
    always_read = name in ("training_log.jsonl", "config.toml")  # what is wrong with them is a finding
    assert always_read or "refused" in {kind for kind, _ in outcomes.values()}
