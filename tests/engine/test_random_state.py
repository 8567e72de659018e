"""The noise of a run's sampling is its own: rewards that seed change nothing, a resume goes on with it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine import resume as resuming
from grpo_cli.engine.resume import resume
from grpo_cli.engine.rollout.sampling import KeyChain
from grpo_cli.engine.run_dir.run_state import random_state, read_state
from grpo_cli.engine.train import train
from tests.engine.test_resume import SHORT, Stop, crash_after
from tests.engine.test_train import small

REWARDS = Path(__file__).parent / "letter_reward.py"
SETTINGS = {**SHORT, "max_train_samples": 1, "batch_size": 1, "num_epochs": 4, "max_steps": 4}
SEEDING: dict[str, Any] = {**SETTINGS, "reward_functions": [f"{REWARDS}:with_seeds"]}


def completions(folder: Path) -> list[list[str]]:
    """The texts that were logged, by step."""
    steps: dict[int, list[str]] = {}
    for line in (folder / "completions.jsonl").read_text().splitlines():
        entry = json.loads(line)
        steps.setdefault(entry["step"], []).append(entry["completion"])
    return list(steps.values())


@pytest.mark.parametrize("seed", [0, 7, 1 << 40])
def test_the_chain_gives_what_mlxs_own_state_would(seed: int) -> None:
    chain = KeyChain.of_seed(seed)
    mx.random.seed(seed)
    for _ in range(3):
        assert (
            mx.random.uniform(shape=(4,)).tolist() == mx.random.uniform(shape=(4,), key=chain.next()).tolist()
        )
        assert chain.words == random_state()
        chain = KeyChain(chain.words)


def test_a_reward_that_seeds_changes_no_completion(tmp_path: Path) -> None:
    plain, seeding = small(tmp_path, run_name="plain", **SETTINGS), small(tmp_path, **SEEDING)
    train(plain)
    train(seeding)
    found = completions(seeding.run_dir)
    assert found == completions(plain.run_dir)
    assert all(step != earlier for earlier, step in pairwise(found))


def test_resumed_it_goes_on_with_its_own_numbers(tmp_path: Path) -> None:
    whole = small(tmp_path, run_name="whole", **SEEDING)
    train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **SEEDING)
    with pytest.raises(Stop):
        train(broken, crash_after(2))
    state = read_state(broken.run_dir / "checkpoint-2")[0]
    assert state.sampling_state != state.random_state
    resume(broken.run_dir)
    assert completions(broken.run_dir) == completions(whole.run_dir)


def test_a_checkpoint_of_old_goes_on_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has MLX's state only, which rollouts were drawn from then."""

    def read_old(folder: Path) -> Any:
        state, groups = read_state(folder)
        state.random_state, state.sampling_state = state.sampling_state, []
        return state, groups

    whole = small(tmp_path, run_name="whole", **SETTINGS)
    train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **SETTINGS)
    with pytest.raises(Stop):
        train(broken, crash_after(2))
    monkeypatch.setattr(resuming, "read_state", read_old)
    resume(broken.run_dir)
    assert completions(broken.run_dir) == completions(whole.run_dir)
