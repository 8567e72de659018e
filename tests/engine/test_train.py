"""Whole runs of a few small steps with the embedded model."""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten

from grpo_cli import device
from grpo_cli.config.load import load_config
from grpo_cli.engine import events, setup
from grpo_cli.engine.recovery import DeviceLost, Restart
from grpo_cli.engine.run_dir.ending import read_ending
from grpo_cli.engine.run_dir.incidents import INTERRUPTED, Incidents
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.train import rescued, train
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.errors import CheckpointError, DataError, Interrupted, RewardError
from grpo_cli.models.adapters import adapters_off
from grpo_cli.models.load import load_policy
from tests.support.device_faults import TEXTS
from tests.support.small_runs import STEP_KEYS, lines, small
from tests.support.steps import scored_groups

EVALUATION_KEYS = {"step", "eval_accuracy", "eval_samples", "eval_format", "eval_seconds"}


def weights(folder: Path) -> dict[str, mx.array]:
    return mx.load(str(folder / "model.safetensors"))  # type: ignore[return-value]


def largest_change(a: dict[str, mx.array], b: dict[str, mx.array]) -> float:
    assert a.keys() == b.keys()
    return max(mx.abs(a[name].astype(mx.float32) - b[name].astype(mx.float32)).max().item() for name in a)


def test_a_run_writes_its_log_completions_and_checkpoints(tmp_path: Path) -> None:
    seen: list[events.Event] = []
    config = small(tmp_path, eval_steps=1, eval_samples=8, save_steps=1, log_completions=3)
    final = train(config, seen.append)
    folder = config.run_dir
    log = lines(folder)
    assert [line["step"] for line in log] == [0, 1, 1, 2, 2]
    steps = [line for line in log if "loss" in line]
    assert all(set(line) == STEP_KEYS for line in steps)
    assert all(set(line) >= EVALUATION_KEYS for line in log if "eval_accuracy" in line)
    assert all(line["kl"] is None and line["clip_ratio"] == 0.0 for line in steps)
    assert steps[0]["entropy"] > 0
    completions = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert [line["step"] for line in completions] == [1, 1, 1, 2, 2, 2]
    assert {"prompt", "completion", "rewards", "advantage", "stop_reason"} <= set(completions[0])
    assert load_config(str(folder / "config.toml")).config == config
    assert final == folder / "final"
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    kinds = [type(event).__name__ for event in seen if not type(event).__name__.endswith("Progress")]
    once = ["StepFinished", "EvaluationDone", "CheckpointSaved"]
    assert kinds == ["RunStarted", "EvaluationDone", *once, *once, "CheckpointSaved", "RunFinished"]


@pytest.mark.parametrize("text", ["lost device", "timeout"])
@pytest.mark.parametrize("when", ["before", "while saving", "never"])
def test_ctrl_c_ends_a_run_whose_device_fails(
    text: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `--supervise`, or the run itself, would start it again. It is saved without the failed device."""
    saved_by: list[str] = []
    monkeypatch.setattr(device, "past_the_gpu", lambda: nullcontext(saved_by.append("CPU")))
    interruption, failed = Interruption(), RuntimeError(TEXTS[text])
    interruption.requested = when == "before"

    def save(*_: Any) -> list[str]:
        interruption.requested = interruption.requested or when == "while saving"
        return ["Step 2 is saved."]

    incidents = Incidents()
    run: Any = SimpleNamespace(
        interruption=interruption, incidents=incidents, rescue=SimpleNamespace(save=save)
    )
    with RunLock(tmp_path) as lock:
        saver: Any = SimpleNamespace(lock=lock, folder=tmp_path, writes=True, saved_step=2)
        ending = rescued(run, saver, saver, failed)
    kept = read_ending(tmp_path)
    assert kept is not None
    expected = {"lost device": DeviceLost, "timeout": Restart}[text] if when == "never" else Interrupted
    assert type(ending) is expected
    assert saved_by == ["CPU"]
    assert ending.__notes__ == ["Step 2 is saved."]
    assert kept.state == ("failed" if when == "never" else "interrupted")
    assert (incidents.seen[0].kind == INTERRUPTED) == (when != "never")


def test_a_checkpoint_is_what_plain_mlx_lm_loads_and_its_manifest_is_true(tmp_path: Path) -> None:
    final = train(small(tmp_path))
    manifest = json.loads((final / "manifest.json").read_text())
    files = {path.name for path in final.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    assert {"model.safetensors", "optimizer.safetensors", "trainer_state.json", "tokenizer.pkl"} <= files
    for name, entry in manifest["files"].items():
        data = (final / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    assert not list(final.parent.glob(".*grpo-tmp*"))
    model, tokenizer = mlx_lm.load(str(final))
    ours = load_policy(str(final))
    ids = ours.tokenizer.encode_prompt([{"role": "user", "content": "What is 123 + 456?"}])
    chat = [{"role": "user", "content": "What is 123 + 456?"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == ids
    assert mx.array_equal(model(mx.array([ids])), ours.model(mx.array([ids])))
    assert largest_change(weights(final), dict(tree_flatten(load_policy("tiny").model.parameters()))) > 1e-5


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    runs = [
        weights(train(small(tmp_path, run_name=name, seed=seed)))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert largest_change(runs[0], runs[1]) == 0.0
    assert largest_change(runs[0], runs[2]) > 0.0


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_gradient_accumulation_is_the_big_batch(tmp_path: Path, loss_type: str) -> None:
    """Same prompts and completions, cut into one microbatch or four. SGD shows the gradient itself."""
    settings = {"loss_type": loss_type, "optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1}
    one = train(small(tmp_path, run_name="one", **settings))
    four = train(small(tmp_path, run_name="four", batch_size=1, gradient_accumulation_steps=4, **settings))
    before = dict(tree_flatten(load_policy("tiny").model.parameters()))
    moved = largest_change(weights(one), before)
    assert moved > 1e-4
    assert largest_change(weights(one), weights(four)) < 1e-5 * moved + 1e-8


def test_several_updates_per_rollout_reuse_its_completions(tmp_path: Path) -> None:
    config = small(tmp_path, num_iterations=2, max_steps=4)
    train(config)
    log = lines(config.run_dir)
    assert [line["rollout_tokens_per_second"] is None for line in log] == [False, True, False, True]
    assert log[0]["reward_mean"] == log[1]["reward_mean"]
    assert [line["epoch"] for line in log] == [4 / 500, 4 / 500, 8 / 500, 8 / 500]
    assert json.loads((config.run_dir / "final" / "trainer_state.json").read_text())["prompts_used"] == 8


def test_lora_trains_adapters_only_and_its_reference_is_the_base(tmp_path: Path) -> None:
    config = small(tmp_path, lora_rank=4, kl_coeff=0.1, learning_rate=1e-3)
    final = train(config)
    log = lines(config.run_dir)
    assert log[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # the adapters begin as zero
    assert log[1]["kl"] > 1e-7
    assert not (final / "model.safetensors").exists()
    trained, base = load_policy(str(final)), load_policy("tiny")
    ids = mx.array([trained.tokenizer.encode("What is 123 + 456?")])
    assert not mx.allclose(trained.model(ids), base.model(ids), atol=1e-4)
    plain, _ = mlx_lm.load(str(base.path), adapter_path=str(final))
    assert mx.allclose(plain(ids), trained.model(ids), atol=1e-5)
    with adapters_off(trained.model):
        assert mx.allclose(trained.model(ids), base.model(ids), atol=1e-6)
    assert not mx.allclose(trained.model(ids), base.model(ids), atol=1e-4)


def test_a_full_run_with_kl_compares_with_the_initial_policy(tmp_path: Path) -> None:
    config = small(tmp_path, kl_coeff=0.5, learning_rate=1e-3)
    train(config)
    log = lines(config.run_dir)
    assert log[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert log[1]["kl"] > 1e-4


def test_on_policy_ratios_are_one_with_the_real_model_and_prefix(tmp_path: Path) -> None:
    run = setup.prepare(small(tmp_path, temperature=0.8, completion_prefix="<reasoning>"))
    groups = scored_groups(run)
    assert all(rollout.text.startswith("<reasoning>") for group in groups for rollout in group.rollouts)
    batch = pad(
        [TrainingSequence(group.prompt_ids, rollout, 1.0) for group in groups for rollout in group.rollouts]
    )
    trained = token_logprobs(run.policy.model, batch, 0.8)
    assert mx.abs(mx.where(batch.loss_mask, trained - batch.old_logprobs, 0.0)).max().item() < 1e-4


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    train(small(tmp_path, max_steps=1))
    before = (tmp_path / "run" / "training_log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="already holds a run") as error:
        train(small(tmp_path, max_steps=1))
    assert f"grpo resume {tmp_path / 'run'}" in error.value.hint
    assert (tmp_path / "run" / "training_log.jsonl").read_bytes() == before


def test_an_output_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"^Failed to save checkpoint: Not a dir.*/file") as error:
        train(small(tmp_path / "file"))
    assert error.value.hint == "choose another `output_dir`"


def test_a_reward_that_fails_stops_the_run_and_shows_the_completion(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(completions, **columns):\n    raise KeyError('gold')\n")
    with pytest.raises(RewardError, match="broken") as error:
        train(small(tmp_path, reward_functions=[f"{tmp_path}/mine.py:broken"]))
    assert "gold" in str(error.value)
    assert "<reasoning>" in str(error.value)


def test_long_prompts_are_skipped_counted_and_never_cut(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"question": "What is 1 + 2?", "answer": "3"}\n'
        + json.dumps({"question": "What is 1 + 2? " * 40, "answer": "3"})
        + '\n{"question": "What is 2 + 2?", "answer": "4"}\n'
    )
    seen: list[events.Event] = []
    settings = {"dataset": str(tmp_path), "max_prompt_length": 40, "batch_size": 2, "max_steps": 0}
    run = setup.prepare(small(tmp_path, **settings), seen.append)
    taken, left_out = run.train_prompts.take(0, 4)  # two epochs
    assert [prompt.example.answer for prompt in taken[:2]] in (["3", "4"], ["4", "3"])
    assert run.total_steps == 1 and left_out <= 2
    assert all(len(prompt.ids) <= 40 for prompt in taken)
    (notice,) = [event for event in seen if isinstance(event, events.Notice)]
    assert notice.text.startswith(
        "1 of 3 training prompts left out: longer than max_prompt_length = 40 tokens"
    )
    with pytest.raises(DataError, match="No prompt has 3 tokens or fewer"):
        setup.prepare(small(tmp_path, **(settings | {"max_prompt_length": 3})))


def test_old_checkpoints_go_and_final_stays(tmp_path: Path) -> None:
    config = small(tmp_path, max_steps=4, save_steps=1, keep_checkpoints=2, num_generations=2, batch_size=1)
    train(config)
    kept = sorted(path.name for path in config.run_dir.iterdir() if path.is_dir())
    assert kept == ["checkpoint-3", "checkpoint-4", "final"]


def test_evaluation_uses_the_test_split_and_the_same_items(tmp_path: Path) -> None:
    run = setup.prepare(small(tmp_path, eval_steps=1, eval_samples=16))
    other = setup.prepare(small(tmp_path, eval_steps=1, eval_samples=16, seed=5))
    asked = [prompt.example.messages for prompt in run.eval_prompts]
    assert asked == [prompt.example.messages for prompt in other.eval_prompts]
    assert len(asked) == 16
    trained = {str(prompt.example.messages) for prompt in run.train_prompts}
    assert not trained & {str(messages) for messages in asked}
