"""Cures of runs and checkpoints: commands that are run, and keys with which a short run is made again."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_cli.config.schema import Config
from grpo_cli.doctor.findings import Finding
from grpo_cli.engine.train import train
from tests.support.checkpoint_findings import flip, rehashed
from tests.support.cure_scenarios import grpo
from tests.support.doctor_cures import Cure, cases_of, command, run_shell, toml
from tests.support.doctor_findings import Here, look, tiny_copy
from tests.support.model_damage import edit_json
from tests.support.run_logs import steps, written

SMALL: dict[str, Any] = {
    "model_name": "tiny", "dataset": "arithmetic", "max_train_samples": 8, "num_generations": 2,
    "batch_size": 2, "gradient_accumulation_steps": 1, "max_new_tokens": 4, "eval_steps": 0, "save_steps": 1,
    "keep_checkpoints": 5, "max_steps": 2, "reward_functions": ["correctness"], "output_dir": "outputs",
    "run_name": "r",
}  # fmt: skip
MADE: dict[str, Path] = {}  # runs of two steps, copied by each scenario
RUN = Path("outputs/r")


def run(**changes: Any) -> Path:
    """The folder of a run of two steps."""
    key = json.dumps(changes)
    if key not in MADE:
        place = Path(os.environ["HOME"]) / "doctor-cures" / str(len(MADE))
        train(Config(**SMALL | changes | {"output_dir": str(place)}))
        MADE[key] = place / "r"
    shutil.copytree(MADE[key], RUN)
    return RUN


def again(**changes: Any) -> Path:
    """A new run with such keys in the place of the old one."""
    shutil.rmtree(RUN, ignore_errors=True)
    train(Config(**SMALL | changes))
    return RUN


def at(*checks: str) -> list[Finding]:
    return look(Here(run=RUN), *checks)


def of_checkpoint(folder: Path, *checks: str) -> list[Finding]:
    return look(Here(checkpoint=folder), *checks)


# --- checkpoints --------------------------------------------------------------------------------------


def a_damaged_checkpoint_of_a_run() -> Cure:
    flip(run() / "checkpoint-2")
    finding = yield lambda: at("checkpoint-files")
    run_shell(finding.commands[0])


def a_damaged_checkpoint_beside_others() -> Cure:
    flip(run() / "final")
    finding = yield lambda: of_checkpoint(RUN / "final", "checkpoint-files")
    intact = Path(command(finding, "grpo resume")[2])
    grpo("resume", str(intact), "--set", "max_steps=3", "--quiet")
    yield lambda: of_checkpoint(intact, "checkpoint-files")


def a_damaged_checkpoint_alone() -> Cure:
    shutil.copytree(run() / "final", "whole")
    shutil.rmtree(RUN)
    shutil.copytree("whole", "copy")
    flip(Path("copy"))
    Path("one").mkdir()
    shutil.move("copy", "one/copy")
    finding = yield lambda: of_checkpoint(Path("one/copy"), "checkpoint-files")
    assert finding.cure.startswith("copy the whole checkpoint again from its source")
    run_shell(finding.commands[0])
    shutil.rmtree("one/copy")
    shutil.copytree("whole", "one/copy")


def a_checkpoint_that_is_not_intact() -> Cure:
    flip(run() / "checkpoint-2")
    finding = yield lambda: of_checkpoint(RUN / "checkpoint-2", "resumable")
    words = command(finding, "grpo resume")
    grpo(*words[1:], "--set", "max_steps=3", "--quiet")
    yield lambda: at("resumable")


def a_run_without_an_intact_checkpoint() -> Cure:
    shutil.copytree(run() / "checkpoint-1", "backup")
    for name in ("checkpoint-1", "checkpoint-2", "final"):
        (RUN / name / "trainer_state.json").unlink()
    finding = yield lambda: at("resumable")
    words = command(finding, "grpo doctor")
    grpo(*words[1:])  # the weights alone are sound, as it shows
    assert finding.cure.startswith("copy an intact one back")
    shutil.rmtree(RUN / "checkpoint-1")
    shutil.copytree("backup", RUN / "checkpoint-1")


def a_state_that_cannot_be_used() -> Cure:
    edit_json(run() / "final/trainer_state.json", step=-3)
    rehashed(RUN / "final")
    finding = yield lambda: of_checkpoint(RUN / "final", "resumable")
    assert finding.cure.startswith("resume from another checkpoint of ")
    yield lambda: of_checkpoint(RUN / "checkpoint-2", "resumable")


def a_log_that_was_cut() -> Cure:
    log = run() / "training_log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:40])
    finding = yield lambda: at("resumable")
    assert "restore the whole log first" in finding.cure
    log.write_bytes(whole)


def adapters_without_their_base() -> Cure:
    tiny_copy(Path("base"))
    again(model_name=str(Path("base").absolute()), lora_rank=2)
    Path("base").rename("moved")
    finding = yield lambda: of_checkpoint(RUN / "final", "resumable")
    place = RUN / "final/adapter_config.json"
    assert f"write its new place into `model` of {place}" in finding.cure
    edit_json(place, model=str(Path("moved").absolute()))
    rehashed(RUN / "final")


def adapters_with_a_damaged_config() -> Cure:
    run(lora_rank=2)
    (RUN / "final/adapter_config.json").write_text("{")
    rehashed(RUN / "final")
    finding = yield lambda: of_checkpoint(RUN / "final", "resumable")
    assert finding.cure == "take another checkpoint of the run"
    yield lambda: of_checkpoint(RUN / "checkpoint-2", "resumable")


def a_configuration_that_was_lost() -> Cure:
    (run() / "config.toml").unlink()
    finding = yield lambda: at("resumable")
    run_shell(next(line for line in finding.commands if line.startswith("cp ")))


def an_optimizer_of_other_weights() -> Cure:
    path = run() / "final/optimizer.safetensors"
    arrays: Any = mx.load(str(path))
    mx.eval(arrays)
    arrays["rule.lm_head.weight.m"] = mx.zeros((3, 4))
    mx.save_safetensors(str(path), arrays)
    rehashed(RUN / "final")
    finding = yield lambda: of_checkpoint(RUN / "final", "optimizer-state")
    words = command(finding, "grpo train")
    name = words.index("run_name=NAME")
    grpo(*words[1:name], "run_name=new", "--set", "max_steps=1", "--quiet")
    yield lambda: of_checkpoint(Path("outputs/new/final"), "optimizer-state")


def an_optimizer_and_weights_that_are_gone() -> Cure:
    shutil.copytree(run() / "final", "whole")
    shutil.rmtree(RUN)
    Path("one").mkdir()
    shutil.copytree("whole", "one/copy")
    for name in ("optimizer.safetensors", "model.safetensors"):
        Path("one/copy", name).unlink()
    rehashed(Path("one/copy"))
    finding = yield lambda: of_checkpoint(Path("one/copy"), "optimizer-state")
    assert finding.cure.startswith("copy the whole checkpoint again")
    shutil.rmtree("one/copy")
    shutil.copytree("whole", "one/copy")


# --- logs ---------------------------------------------------------------------------------------------


def no_log_was_kept() -> Cure:
    run(log_jsonl=False)
    finding = yield lambda: at("run-log")
    again(**toml(finding))


def a_folder_of_runs() -> Cure:
    run()
    finding = yield lambda: look(Here(run=Path("outputs")), "run-log")
    words = command(finding, "grpo doctor --run")
    yield lambda: look(Here(run=Path(words[3])), "run-log")


def a_line_that_was_edited() -> Cure:
    log = run() / "training_log.jsonl"
    whole = log.read_text()
    first, rest = whole.split("\n", 1)
    log.write_text(f"{first[:-9]}\n{rest}")
    finding = yield lambda: at("run-log")
    run_shell(finding.commands[0])  # shows the line, which a person gives its end back
    log.write_text(whole)


# --- training: the same short run with the keys that are named ----------------------------------------


LONGER: dict[str, Any] = {"max_train_samples": 64, "max_steps": 5, "save_steps": 0}
COLD = LONGER | {"max_new_tokens": 48, "temperature": 0.01, "learning_rate": 1e-6}


def completions_that_are_cut_off() -> Cure:
    again(**LONGER)
    finding = yield lambda: at("truncation")
    again(**LONGER | toml(finding))


def rewards_that_are_zero() -> Cure:
    again(**LONGER)
    finding = yield lambda: at("rewards-zero")
    assert "Raise max_new_tokens first; the rest may not be needed" in finding.cure
    again(**LONGER | {"max_new_tokens": toml(finding)["max_new_tokens"]})


def a_temperature_that_is_too_low() -> Cure:
    again(**COLD)
    finding = yield lambda: at("identical-completions")
    again(**COLD | toml(finding))


def groups_of_equal_rewards() -> Cure:
    cold = COLD | {"num_generations": 8, "batch_size": 4}  # enough groups, and of different completions
    again(**cold)
    finding = yield lambda: at("nothing-to-learn")
    again(**cold | toml(finding))


def a_reward_that_drowns_the_others() -> Cure:
    Path("mine.py").write_text("def huge(completions, **columns):\n    return [100.0 for _ in completions]\n")
    both = LONGER | {"reward_functions": ["mine.py:huge", "correctness"]}
    again(**both)
    finding = yield lambda: at("reward-high")
    again(**both | toml(finding))


def evaluations_that_take_the_time() -> Cure:
    def log(every: int, samples: int) -> Path:
        lines = steps(60, step_seconds=1.0, rollout_seconds=0.6, update_seconds=0.3)
        for step in range(every, 61, every):
            lines.append(
                {"step": step, "eval_accuracy": 0.5, "eval_samples": samples, "eval_seconds": samples / 20}
            )
        RUN.mkdir(parents=True, exist_ok=True)
        return written(RUN, lines, eval_steps=every, eval_samples=samples)

    log(10, 400)
    finding = yield lambda: at("time-split")
    keys = toml(finding)
    log(keys["eval_steps"], keys["eval_samples"])


test_a_cure_cures = cases_of(globals())
