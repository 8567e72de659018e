"""Training with environments: what they wrote is neither trained nor counted, is logged, and is kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.load import load_config
from grpo_cli.config.schema import Config
from grpo_cli.engine.resume import resume
from grpo_cli.engine.train import train
from grpo_cli.environments.session import Limits, Session
from grpo_cli.environments.tooling import Tooling
from grpo_cli.types import Example
from tests.support import letter_reward
from tests.support.environments import Asking
from tests.support.shallow_model import shallow_model
from tests.support.small_runs import lines, small

LIMITS = Limits(max_result_tokens=60)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several updates and kl": {"num_iterations": 2, "kl_coeff": 0.1},
    "packed": {"microbatch_tokens": 200, "loss_type": "gspo"},
    "a cut tail": {"top_k": 20, "num_iterations": 2},
    "filters": {"top_entropy_quantile": 0.5, "entropy_coeff": 0.01, "mask_truncated_completions": True},
    "two steps a generation": {"steps_per_generation": 2},
    "quantized rollouts": {"quantize_for_rollouts": True, "group_size": 32, "model_name": "tiny"},
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Asking]:
    """The environments of all rollouts of the test, in the order they were made."""
    environments: list[Asking] = []

    def session(_: Example) -> Session:
        environments.append(Asking())
        return Session(environments[-1], LIMITS)

    monkeypatch.setattr("grpo_cli.engine.setup.tooling_of", lambda *_: Tooling(session))
    return environments


def configured(folder: Path, **changes: Any) -> Config:
    settings = {
        "batch_size": 2,
        "num_generations": 4,
        "max_new_tokens": 12,
        "temperature": 1.5,
        "max_steps": 4,
        "save_steps": 1,
        "keep_checkpoints": 9,
        "log_completions": 8,
        "seed": 3,
        "model_name": shallow_model(),
        "reward_functions": [f"{letter_reward.__file__}:mean_letter"],
    }
    return small(folder, **{**settings, **changes})


def completions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_a_resumed_run_is_the_uninterrupted_one(
    changes: dict[str, Any], made: list[Asking], tmp_path: Path
) -> None:
    """Byte for byte. What an environment answered is in the checkpoint: nothing is asked twice."""
    config = configured(tmp_path, **changes)
    final = train(config)
    asked = len(made)
    folder = tmp_path / "again" / "run"
    shutil.copytree(config.run_dir, folder)
    for name in ("final", "checkpoint-4", "checkpoint-3", "checkpoint-2"):
        shutil.rmtree(folder / name, ignore_errors=True)
    again = resume(folder)
    assert (again / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()
    assert completions(folder) == completions(config.run_dir)
    per_generation = config.prompts_per_generation * config.num_generations
    generations = asked // per_generation
    assert len(made) - asked == per_generation * (generations - 1)


def test_what_an_environment_wrote_is_logged_and_not_counted(made: list[Asking], tmp_path: Path) -> None:
    config = configured(tmp_path)
    train(config)
    steps = [line for line in lines(config.run_dir) if "loss" in line]
    assert all(line["completion_length_mean"] <= 12 for line in steps)
    assert sum(line["turns_mean"] for line in steps) > 4.0
    calls = sum(environment.calls for environment in made)
    assert sum(line["tools/calls_mean"] for line in steps) * 8 == pytest.approx(calls)
    assert steps[0]["tools/failure_rate"] == 0.0
    logged = completions(config.run_dir)
    assert len(logged) == 32
    for line in logged:
        assert ("own_text" in line) == (line.get("forced_tokens", 0) > 0)
    several = [line for line in logged if line.get("turns", 1) > 1]
    assert several
    for line in several:
        roles = [message["role"] for message in line["messages"]]
        assert roles == ["assistant"] * line["turns"]


@pytest.mark.slow
def test_the_embedded_model_learns_to_call_a_tool(tmp_path: Path) -> None:
    """The shipped configuration: from hardly any call to one in nearly every completion."""
    loaded = load_config("tools_smoke", [f"output_dir={tmp_path}"])
    train(loaded.config)
    log = lines(loaded.config.run_dir)
    before, after = (line["eval_accuracy"] for line in log if "eval_accuracy" in line)
    steps = [line for line in log if "loss" in line]
    assert (before, after >= 0.9) == (0.0, True)
    assert steps[0]["tools/calls_mean"] < 0.3
    assert steps[-1]["tools/calls_mean"] > 0.9
