"""Cures of run folders and checkpoints."""

import os
import re
import shlex
import shutil
from contextlib import ExitStack
from pathlib import Path

from grpo_cli.config.resumable import check_changes
from grpo_cli.config.schema import Config
from grpo_cli.engine.run_dir.folder import locate, refuse_existing_run
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.run_dir.manifest import damage
from grpo_cli.engine.run_dir.resume_point import find_start
from grpo_cli.engine.setup import forward_plan, trainable_policy
from grpo_cli.engine.train import train
from grpo_cli.models.load import load_policy
from tests.support.cure_models import adapters, change
from tests.support.cure_scenarios import Steps, cases_of, command, grpo, toml

QUICK = {
    "model_name": "tiny", "dataset": "arithmetic", "max_steps": 1, "save_steps": 1, "eval_steps": 0,
    "batch_size": 1, "gradient_accumulation_steps": 1, "num_generations": 2, "max_new_tokens": 4,
    "max_prompt_length": 200, "warmup_ratio": 0.0, "lora_rank": 2,
}  # fmt: skip
MADE: list[Path] = []  # one run, copied by each scenario


def run(name: str = "r") -> Path:
    """The folder of a run of one step, `outputs/NAME`."""
    if not MADE:
        folder = Path(os.environ["HOME"]) / "cures" / "outputs" / "made"
        train(Config.model_validate({**QUICK, "output_dir": str(folder.parent), "run_name": "made"}))
        MADE.append(folder)
    shutil.copytree(MADE[0], Path("outputs") / name)
    return Path("outputs") / name


def start(path: Path | str, *overrides: str, restart: bool = False) -> object:
    with ExitStack() as stack:
        return find_start(Path(path), overrides, lambda _: None, stack, restart)


# --- run folders and checkpoints ----------------------------------------------------------------------


def run_folder_is_a_file() -> Steps:
    Path("outputs").mkdir()
    Path("outputs/r").write_text("")
    assert "choose another `run_name`" in (yield lambda: refuse_existing_run(Path("outputs/r")))
    yield lambda: refuse_existing_run(Path("outputs/other"))


def run_exists() -> Steps:
    run("my r")
    hint = yield lambda: refuse_existing_run(Path("outputs/my r"))
    grpo(*command(hint), "--max-steps", "2", "--quiet")
    yield lambda: refuse_existing_run(Path("outputs/NAME"))  # of `--set run_name=NAME`


def run_is_not_there() -> Steps:
    run()
    hint = yield lambda: locate(Path("outputs/x"))
    assert hint == "there are outputs/r/checkpoint-1, outputs/r/final"
    yield lambda: locate(Path("outputs/r/checkpoint-1"))


def run_in_use() -> Steps:
    run()
    other = RunLock(Path("outputs/r"))
    other.__enter__()
    assert f"`kill {os.getpid()}`" in (yield lambda: start("outputs/r"))
    other.__exit__()  # as the other process does when it ends


def run_replaced() -> Steps:
    lock = RunLock(run()).__enter__()
    shutil.rmtree("outputs/r")
    Path("outputs/r").mkdir()
    line = re.findall(r"`(mv [^`]+)`", (yield lock.make_again))[0]
    shutil.move(*shlex.split(line)[1:])
    yield lock.make_again
    lock.__exit__()


def no_intact_checkpoint() -> Steps:
    folder = run()
    shutil.rmtree(folder / "final")
    for path in folder.glob("checkpoint-*/*.safetensors"):
        path.write_bytes(b"")
    hint = yield lambda: start(folder)
    assert command(hint) == ["resume", "outputs/r", "--restart"]
    yield lambda: start(folder, restart=True)


def lock_that_nobody_of_ours_made() -> Steps:
    (run("my r") / "run.lock").mkdir()
    hint = yield lambda: start("outputs/my r")
    (words,) = re.findall("`(rm [^`]+)`", hint)
    shutil.rmtree(shlex.split(words)[2])


def restart_of_a_checkpoint() -> Steps:
    folder = run()
    hint = yield lambda: start(folder / "final", restart=True)
    assert command(hint)[1] == str(Path("outputs/r").absolute())
    yield lambda: start(command(hint)[1], restart=True)


def run_without_anything() -> Steps:
    folder = run()
    checkpoint = folder / "checkpoint-1"
    checkpoint.rename("kept")
    shutil.rmtree(folder)
    Path("outputs/r/checkpoint-1").mkdir(parents=True)
    hint = yield lambda: start("outputs/r/checkpoint-1")
    assert hint
    shutil.rmtree("outputs/r/checkpoint-1")
    Path("kept").rename("outputs/r/checkpoint-1")


def checkpoint_of_another_version() -> Steps:
    folder = run() / "final"
    change(folder / "manifest.json", version=99)
    hint = yield lambda: damage(folder)
    assert f"`--set model_name={folder}` in a new run" in hint
    yield lambda: trainable_policy(Config.model_validate({**QUICK, "model_name": "tiny"}))


def state_that_is_damaged() -> Steps:
    from grpo_cli.engine.run_dir.run_state import read_state

    folder = run()
    (folder / "final/trainer_state.json").write_text("{}")
    assert (yield lambda: read_state(folder / "final")) == "resume from another checkpoint of the run"
    yield lambda: read_state(folder / "checkpoint-1")


def run_that_is_done() -> Steps:
    run()
    from grpo_cli.engine.resume import resume

    resume(Path("outputs/r"), ["max_steps=2"])
    hint = yield lambda: resume(Path("outputs/r"), ["max_steps=1"])
    option = hint.split("`")[1].split()
    assert option[0] == "--set"
    yield lambda: resume(Path("outputs/r"), [option[1]])


def prompts_that_changed() -> Steps:
    from grpo_cli.engine.resume import resume

    Path("d.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    keys = {**QUICK, "dataset": "d.jsonl", "run_name": "r", "reward_functions": ["correctness"]}
    train(Config.model_validate(keys))
    kept = Path("d.jsonl").read_text()
    Path("d.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n')
    assert "restore the dataset" in (yield lambda: resume(Path("outputs/r"), ["max_steps=2"]))
    Path("d.jsonl").write_text(kept)


def reward_that_changed() -> Steps:
    from grpo_cli.engine.resume import resume

    Path("r.py").write_text("def f(completions, **_):\n    return [1.0 for _ in completions]\n")
    train(Config.model_validate({**QUICK, "run_name": "r", "reward_functions": ["r.py:f"]}))
    Path("r.py").write_text("def f(completions, **_):\n    return [2.0 for _ in completions]\n")
    hint = yield lambda: resume(Path("outputs/r"), ["max_steps=2"])
    grpo(*command(hint), "--max-steps", "2", "--quiet")
    yield lambda: None


def code_of_a_received_run() -> Steps:
    from grpo_cli.trust import named_here

    Path("r.py").write_text("def f(completions, **_):\n    return [1.0 for _ in completions]\n")
    train(Config.model_validate({**QUICK, "run_name": "r", "reward_functions": ["r.py:f"]}))
    named_here().unlink()
    hint = yield lambda: start("outputs/r", "max_steps=2")
    yield lambda: start(command(hint)[1], "max_steps=2", command(hint)[3])


def step_of_another_size() -> Steps:
    before = Config(batch_size=2, gradient_accumulation_steps=4)
    hint = yield lambda: check_changes(before, before.model_copy(update={"batch_size": 4}))
    assert hint == "choose two numbers whose product is 8"
    yield lambda: check_changes(
        before, before.model_copy(update={"batch_size": 4, "gradient_accumulation_steps": 2})
    )


def key_that_cannot_change() -> Steps:
    before = Config(num_generations=8)
    hint = yield lambda: check_changes(before, before.model_copy(update={"lora_rank": 8}))
    assert hint.startswith("leave it out, or start a new run: `--set lora_rank=")
    yield lambda: check_changes(before, before)


def model_with_adapters_is_trained_on() -> Steps:
    adapters("a b")
    config = Config.model_validate({**QUICK, "model_name": "a b", "lora_rank": 8})
    hint = yield lambda: trainable_policy(config)
    assert trainable_policy(config.model_copy(update={"lora_rank": 0})).start  # leave lora_rank out
    grpo(*command(hint), "--no-verify", "--output", "fused")
    yield lambda: trainable_policy(config.model_copy(update={"model_name": "fused"}))


def balance_without_experts() -> Steps:
    config = Config.model_validate({**QUICK, "model_name": "tiny", "router_aux_loss_coef": 0.01})
    hint = yield lambda: forward_plan(config, load_policy("tiny"), lambda _: None)
    config = config.model_copy(update=toml(hint))
    yield lambda: forward_plan(config, load_policy("tiny"), lambda _: None)


def base_that_holds_adapters() -> Steps:
    adapters()
    config = Config.model_validate({**QUICK, "model_name": "a", "adapter": "a"})
    hint = yield lambda: trainable_policy(config)
    base = hint.rpartition(": ")[2]
    yield lambda: trainable_policy(config.model_copy(update={"model_name": base}))


def adapter_that_holds_none() -> Steps:
    adapters()
    config = Config.model_validate({**QUICK, "adapter": "tiny"})
    assert "a folder that `mlx_lm.lora`, this program or peft wrote" in (
        yield lambda: trainable_policy(config)
    )
    yield lambda: trainable_policy(config.model_copy(update={"adapter": "a"}))


def checkpoint_without_its_start() -> Steps:
    adapters()
    keys = {"adapter": "a", "output_dir": "outputs", "run_name": "w", "save_steps": 1, "max_steps": 2}
    config = Config.model_validate({**QUICK, **keys})
    train(config)
    checkpoint = Path("outputs/w/checkpoint-1")
    (checkpoint / "start_adapters.safetensors").unlink()
    hint = yield lambda: trainable_policy(config, checkpoint)
    assert "`ls outputs/w`" in hint
    shutil.copy("outputs/w/final/start_adapters.safetensors", checkpoint)


def checkpoint_to_convert_is_damaged() -> Steps:
    from grpo_cli.cli.convert import check_intact

    folder = run()
    (folder / "final/config.json").write_text("{}")
    hint = yield lambda: check_intact("outputs/r/final")
    assert "`ls outputs/r`" in hint
    yield lambda: check_intact("outputs/r/checkpoint-1")


# --- configurations and paths -------------------------------------------------------------------------


test_a_cure_cures = cases_of(globals())
