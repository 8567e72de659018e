"""The reference that follows the policy: its weights by hand, in whole runs, and from a checkpoint."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from grpo_cli.engine.rollout.buffer import Part
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import REFERENCE
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.sync_reference import is_due, mixed, restore_reference, sync_reference
from grpo_cli.engine.train import train
from grpo_cli.errors import CheckpointError
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from tests.support.random_models import llama_policy, nanochat_policy
from tests.support.small_runs import SHORT, lines, small

MOVING: dict[str, Any] = {"kl_coeff": 0.1, "sync_ref_model": True}


def moved_run(folder: Path, **keys: Any) -> Run:
    """A run whose policy is 1 above its reference in each weight."""
    run = prepare(small(folder, **MOVING, **keys))
    run.policy.model.update(tree_map(lambda array: array + 1.0, run.policy.model.trainable_parameters()))
    return run


def distance(run: Run) -> float:
    """Policy − reference, the same at every weight."""
    assert run.reference is not None
    policy, reference = (flat(one.model.parameters()) for one in (run.policy, run.reference))
    apart = [policy[name] - reference[name] for name in policy]
    least, most = min(a.min().item() for a in apart), max(a.max().item() for a in apart)
    assert most - least < 1e-5
    return float(most)


def test_a_share_of_the_policy_when_it_is_due(tmp_path: Path) -> None:
    """α = 0.25: distances 1, 0.75, 0.5625, and none in the steps between."""
    run = moved_run(tmp_path, ref_model_mixup_alpha=0.25, ref_model_sync_steps=2)
    found = [distance(run)]
    for step in (1, 2, 3, 4):
        sync_reference(run, step)
        found.append(distance(run))
    assert found == pytest.approx([1.0, 1.0, 0.75, 0.75, 0.5625], abs=1e-5)
    run.close()


def test_it_is_off_by_default(tmp_path: Path) -> None:
    run = prepare(small(tmp_path, kl_coeff=0.1))
    assert not any(is_due(run.config, step) for step in (1, 512))
    assert run.snapshot().reference is None
    run.close()


def test_half_precision_is_mixed_from_the_float32_copies() -> None:
    """With α = 1 the reference becomes the copies, rounded."""
    policy, reference = nanochat_policy(), nanochat_policy()
    for one in (policy, reference):
        one.model.set_dtype(mx.bfloat16)
    weights = {name: mx.full(a.shape, 1 + 2**-7) for name, a in flat(policy.model.parameters()).items()}
    new = {name: array for part in mixed(reference, weights, 1.0) for name, array in part.items()}
    assert set(new) == set(flat(reference.model.parameters()))
    assert {array.dtype for array in new.values()} == {mx.bfloat16}
    assert all((array == 1 + 2**-7).all().item() for array in new.values())


def test_waiting_rollouts_forget_the_old_references_logprobs(tmp_path: Path) -> None:
    run = moved_run(tmp_path, ref_model_sync_steps=1, num_iterations=2)
    part = Part([], [])
    run.buffer.waiting = [part]
    sync_reference(run, 1)
    assert part.batches is None
    run.close()


def test_a_run_measures_its_kl_to_the_newer_reference(tmp_path: Path) -> None:
    """With α = 1 after each step the reference is the policy: every later KL is 0 before the update."""
    settings = {**SHORT, "max_steps": 4, "learning_rate": 1e-3, "kl_coeff": 0.1}
    train(small(tmp_path, run_name="still", **settings))
    moving = {**settings, **MOVING, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 1}
    train(small(tmp_path, run_name="moving", **moving))
    still, followed = (
        [line["kl"] for line in lines(tmp_path / name) if "kl" in line] for name in ("still", "moving")
    )
    assert all(value > 1e-5 for value in still[1:])
    assert followed == pytest.approx([0.0] * 4, abs=1e-7)


def test_the_checkpoint_holds_it(tmp_path: Path) -> None:
    settings = {**SHORT, "max_steps": 2, "learning_rate": 1e-3, **MOVING}
    moving = {**settings, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 2}
    final = train(small(tmp_path, **moving))
    saved: dict[str, mx.array] = mx.load(str(final / REFERENCE))  # type: ignore[assignment]
    weights: dict[str, mx.array] = mx.load(str(final / "model.safetensors"))  # type: ignore[assignment]
    assert {name.removeprefix("reference."): array.tolist() for name, array in saved.items()} == {
        name: array.tolist() for name, array in weights.items()
    }


def test_another_models_reference_is_refused(tmp_path: Path) -> None:
    policy: Policy = llama_policy()
    arrays = flat({"reference": policy.model.parameters()})
    mx.save_safetensors(str(tmp_path / REFERENCE), arrays)
    with pytest.raises(CheckpointError, match=r"reference\."):
        restore_reference(nanochat_policy(), tmp_path)
