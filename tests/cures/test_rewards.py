"""Cures of rewards."""

import shutil
from pathlib import Path

from grpo_cli.config.schema import Config
from grpo_cli.engine.train import train
from grpo_cli.rewards.table import load_rewards
from tests.support.cure_scenarios import Steps, cases_of

QUICK = {
    "model_name": "tiny", "dataset": "arithmetic", "max_steps": 1, "save_steps": 1, "eval_steps": 0,
    "batch_size": 1, "gradient_accumulation_steps": 1, "num_generations": 2, "max_new_tokens": 4,
    "max_prompt_length": 200, "warmup_ratio": 0.0, "lora_rank": 2,
}  # fmt: skip


def reward_misspelt() -> Steps:
    hint = yield lambda: load_rewards(["corectness"])
    assert "`correctness`" in hint
    yield lambda: load_rewards(["correctness"])


def reward_file(text: str = "def mine(completions, **_):\n    return [1.0]\n", name: str = "r.py") -> None:
    Path(name).write_text(text)


def reward_file_missing() -> Steps:
    hint = yield lambda: load_rewards(["gone/r.py:mine"])
    assert hint == f"write the path from the current folder, {Path.cwd()}"
    reward_file()
    yield lambda: load_rewards(["r.py:mine"])


def reward_not_named() -> Steps:
    reward_file()
    hint = yield lambda: load_rewards(["r.py"])
    yield lambda: load_rewards([hint.split("`")[1]])


def reward_of_another_name() -> Steps:
    reward_file()
    hint = yield lambda: load_rewards(["r.py:mein"])
    assert "`mine`" in hint or "mine" in hint
    yield lambda: load_rewards(["r.py:mine"])


def reward_that_is_a_number() -> Steps:
    reward_file("x = 3\ndef mine(completions, **_):\n    return [1.0]\n")
    assert "mine" in (yield lambda: load_rewards(["r.py:x"]))
    yield lambda: load_rewards(["r.py:mine"])


def reward_file_that_fails() -> Steps:
    reward_file("import nothing_of_the_kind\n")
    assert (yield lambda: load_rewards(["r.py:mine"])) == "run it by itself: `python r.py`"
    reward_file()


def asked(name: str) -> object:
    """One step with a reward of r.py."""
    shutil.rmtree("outputs", ignore_errors=True)
    return train(Config.model_validate({**QUICK, "run_name": "r", "reward_functions": [f"r.py:{name}"]}))


def reward_that_is_no_list() -> Steps:
    reward_file("def mine(completions, **_):\n    return 1.0\n")
    assert "return one finite number for each completion" in (yield lambda: asked("mine"))
    reward_file("def mine(completions, **_):\n    return [1.0 for _ in completions]\n")


def reward_that_is_a_text() -> Steps:
    reward_file("def mine(completions, **_):\n    return ['good' for _ in completions]\n")
    assert "or None where it does not apply" in (yield lambda: asked("mine"))
    reward_file("def mine(completions, **_):\n    return [None for _ in completions]\n")


def reward_that_raises() -> Steps:
    reward_file("def mine(completions, answers, **_):\n    return [1.0 for _ in completions]\n")
    assert (yield lambda: asked("mine"))
    reward_file("def mine(completions, answer, **_):\n    return [1.0 for _ in completions]\n")


test_a_cure_cures = cases_of(globals())
