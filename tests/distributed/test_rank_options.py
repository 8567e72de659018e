"""One run on two ranks with the options that act on all of them: it is that of one rank.

The reference that follows the policy, adaptive entropy, and the filter by the current policy's entropies; and
completions in which an environment wrote a part that is not trained.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.engine.run_dir.checkpoint import REFERENCE
from grpo_cli.engine.train import train
from tests.support.small_runs import SHORT, lines, small
from tests.support.started_ranks import grpo

OPTIONS: dict[str, Any] = {
    "kl_coeff": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5,
    "use_adaptive_entropy": True, "entropy_target": 100.0, "entropy_coeff_delta": 0.01,
    "top_entropy_quantile": 0.4, "top_entropy_policy": "current", "num_iterations": 2,
}  # fmt: skip
SETTINGS = {**SHORT, **OPTIONS, "max_steps": 4, "batch_size": 1, "gradient_accumulation_steps": 3}
TURNS: dict[str, Any] = {
    **SHORT, "environment": "search", "num_episodes": 12, "system_prompt": "", "completion_prefix": "",
    "reward_functions": ["environment"], "max_new_tokens": 32, "max_result_tokens": 32, "max_steps": 3,
    "model_name": "tiny", "num_generations": 8, "top_entropy_quantile": 0.5,
}  # fmt: skip
STEPPING = {"optimizer": "sgd", "learning_rate": 0.05, "warmup_ratio": 0.0}  # AdamW would level differences


class Pair(NamedTuple):
    """The run folders of one rank and of two."""

    alone: Path
    together: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return both(Pair(tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")), SETTINGS)


def both(folders: Pair, settings: dict[str, Any]) -> Pair:
    """The same run on one rank and on two."""
    configs: list[Config] = [small(folder, **settings, **STEPPING) for folder in folders]
    train(configs[0])
    folders.together.mkdir(exist_ok=True)
    file = folders.together / "two.toml"
    file.write_text(dump_config(configs[1]))
    ended = grpo(2, "train", "--config", str(file), "--quiet")
    assert [code for code, _, _ in ended] == [0, 0], ended
    return Pair(*(folder / "run" for folder in folders))


def arrays(file: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
    return found


def gap(found: dict[str, mx.array], expected: dict[str, mx.array]) -> float:
    """The largest difference, relative to the largest number."""
    assert found.keys() == expected.keys()
    most = max(mx.abs(array).max().item() for array in expected.values())  # type: ignore[type-var]
    return float(max(mx.abs(found[name] - expected[name]).max().item() for name in expected) / most)  # type: ignore[operator, type-var]


def test_the_steps_are_those_of_one_rank(pair: Pair) -> None:
    for mine, other in zip(lines(pair.together), lines(pair.alone), strict=True):
        for key in ("step", "loss", "grad_norm", "kl", "entropy", "reward_mean", "clip_ratio"):
            assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=1e-7), (mine["step"], key)


def test_the_reference_moved_to_the_same_place(pair: Pair) -> None:
    for name in ("model.safetensors", REFERENCE):
        assert gap(arrays(pair.together / "final" / name), arrays(pair.alone / "final" / name)) < 1e-6
    weights, reference = (arrays(pair.alone / "final" / name) for name in ("model.safetensors", REFERENCE))
    assert gap({name.removeprefix("reference."): array for name, array in reference.items()}, weights) > 1e-5


def test_the_entropy_bonus_grew_alike(pair: Pair) -> None:
    """Every update is below the target: the coefficient is a step higher after each of the four."""
    for folder in pair:
        state = json.loads((folder / "final" / "trainer_state.json").read_text())
        assert state["entropy_coeff"] == pytest.approx(0.04)


def test_turns_are_those_of_one_rank(tmp_path: Path) -> None:
    """Masked tokens count nowhere, on whichever rank their rows are."""
    found = both(Pair(tmp_path / "alone", tmp_path / "together"), TURNS)
    steps = list(zip(lines(found.together), lines(found.alone), strict=True))
    assert sum(other["grad_norm"] > 0 for _, other in steps) > 1
    for mine, other in steps:
        assert other["tools/calls_mean"] > 0
        for key in (
            "tools/calls_mean",
            "turns_mean",
            "completion_length_mean",
            "reward_mean",
            "loss",
            "grad_norm",
        ):
            assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=1e-7), (mine["step"], key)
    weights = [arrays(folder / "final" / "model.safetensors") for folder in found]
    assert gap(*weights) < 1e-6
