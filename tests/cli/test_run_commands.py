"""`grpo train`, `eval` and `generate` as a person runs them, with the embedded model."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from grpo_cli.cli.generate import show
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from tests.support.commands import grpo
from tests.support.forked import start
from tests.support.waiting import HANG, wait_until

QUICK = [
    "--set",
    "max_steps=1",
    "--set",
    "batch_size=2",
    "--set",
    "eval_samples=4",
    "--set",
    "num_generations=4",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


def test_train_eval_and_generate_one_after_the_other() -> None:
    trained = grpo("train", "--config", "smoke_test.toml", *QUICK)
    assert trained.exit_code == 0, trained.stderr
    assert trained.stdout == ""
    assert "step 1/1" in trained.stderr
    assert "accuracy" in trained.stderr
    assert "grpo eval --model outputs/smoke_test/final" in trained.stderr
    again = grpo("train", "--config", "smoke_test.toml", *QUICK)
    assert again.exit_code == 1
    assert again.stderr.splitlines()[0] == "The folder outputs/smoke_test already holds a run"
    assert "hint: `grpo resume outputs/smoke_test`" in again.stderr
    assert trained.stderr.rstrip().endswith("The run as a page: outputs/smoke_test/report.html")
    assert "What is" in Path("outputs/smoke_test/report.html").read_text()
    evaluated = grpo(
        "eval", "--model", "outputs/smoke_test/final", "--samples", "4", "--json", "--report", "page.html"
    )
    assert "of 4 problems (95 % interval" in Path("page.html").read_text()
    document = json.loads(evaluated.stdout)
    assert document["samples"] == 4
    assert document["accuracy"] == document["correct"] / 4
    asked = grpo("generate", "--model", "outputs/smoke_test/final", "--prompt", "What is 123 + 456?")
    assert "<answer>" in asked.stdout


def test_a_dry_run_saves_nothing(tmp_path: Path) -> None:
    result = grpo("train", "--config", "smoke_test", "--dry-run")
    assert result.exit_code == 0
    assert "Nothing was saved." in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_eval_compares_writes_and_prints() -> None:
    result = grpo("eval", "--model", "tiny", "--compare", "tiny", "--samples", "6", "--output", "all.jsonl")
    assert result.exit_code == 0, result.stderr
    assert "tiny on arithmetic (test, 6 examples, greedy)" in result.stdout
    assert "no significant difference" in result.stdout
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == [0, 1, 2, 3, 4, 5]  # the same model is measured once
    assert set(lines[0]) >= {"model", "prompt", "answer", "completion", "correct", "rewards"}


def test_pass_at_k_samples_several_completions() -> None:
    words = ["eval", "--model", "tiny", "--samples", "4", "--num-generations", "4", "--json"]
    document = json.loads(grpo(*words).stdout)
    assert document["completions"] == 16
    assert document["temperature"] == 1.0
    assert list(document["pass_at_k"]) == ["1", "2", "4"]
    assert document["pass_at_k"]["1"] == pytest.approx(document["accuracy"])
    assert json.loads(grpo(*words).stdout)["accuracy"] == document["accuracy"]


GAME = """
class Length:
    def reset(self, episode: int) -> str:
        self.wanted, self.lengths = episode % 5, []
        return "What is 12 + 30?"

    def respond(self, text: str) -> str | None:
        self.lengths.append(len(text) % 5)
        return None if self.lengths[-1] == self.wanted or len(self.lengths) == 2 else "Once more: 5 + 7?"

    def get_reward(self) -> float:
        return float(self.wanted in self.lengths)
"""
GAME_CONFIG = """environment = "length_game.py:Length"
num_episodes = 8
system_prompt = ""
completion_prefix = ""
reward_functions = ["environment"]
eval_reward = "environment"
eval_max_new_tokens = 100
temperature = 1.2
"""


def test_pass_at_k_of_an_environment() -> None:
    """Each completion has a game of its own, is right by its reward, and the shares are those of subsets."""
    Path("length_game.py").write_text(GAME)
    Path("game.toml").write_text(GAME_CONFIG)
    words = ["eval", "--model", "tiny", "--config", "game.toml", "--samples", "5", "--num-generations", "4"]
    document = json.loads(grpo(*words, "--json", "--output", "all.jsonl").stdout)
    assert document["dataset"] == "length_game.py:Length"
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == [item for item in range(5) for _ in range(4)]
    for line in lines:
        turns = [one["content"] for one in line.get("messages", []) if one["role"] == "assistant"]
        lengths = [len(turn) % 5 for turn in turns or [line["completion"]]]
        assert line["correct"] is (line["item"] in lengths)
        assert line["rewards"]["environment"] == float(line["correct"])
        assert len(lengths) == (1 if lengths[0] == line["item"] else 2)
    assert len({len(line.get("messages", [])) for line in lines if line["correct"]}) == 2  # by both turns
    right = [[line["correct"] for line in lines if line["item"] == item] for item in range(5)]
    for k in (1, 2, 4):
        tries = [any(chosen) for item in right for chosen in combinations(item, k)]
        assert document["pass_at_k"][str(k)] == pytest.approx(sum(tries) / len(tries))
    assert document["accuracy"] == document["pass_at_k"]["1"]
    assert document["pass_at_k"]["4"] > document["accuracy"]
    assert json.loads(grpo(*words, "--json").stdout)["pass_at_k"] == document["pass_at_k"]


def test_generate_streams_what_a_rollout_samples() -> None:
    question = "What is 382 + 479?"
    result = grpo("generate", "--model", "tiny", "--prompt", question)
    policy = load_policy("tiny")
    ids = policy.tokenizer.encode_prompt([{"role": "user", "content": question}])
    expected = generate(policy, [ids], 1, Sampling(max_new_tokens=512, temperature=0.0))[0][0].text
    assert (result.stdout, result.stderr) == (expected + "\n", "")  # it was not cut off


@pytest.mark.parametrize("leaving", ["", "/exit"])
def test_a_chat_goes_on_until_it_is_left(leaving: str) -> None:
    result = grpo(
        "generate",
        "--model",
        "tiny",
        "--chat",
        "--max-tokens",
        "3",
        stdin=f"What is 1 + 1?\nWhat is 2 + 2?\n{leaving}\nWhat is 3 + 3?\n",
    )
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    said = "The answer was cut off after 3 tokens: `--max-tokens 6` allows more.\n"
    assert result.stderr == 2 * said


@pytest.mark.parametrize(
    ("words", "code", "first_line"),
    [
        (["eval", "--model", "nowhere"], 1, "Model not found: nowhere"),
        (["eval", "--model", "models/nowhere"], 1, "Model not found: models/nowhere"),
        (["eval", "--model", "outputs/checkpoint-1000"], 1, "Checkpoint not found: outputs/checkpoint-1000"),
        (["eval", "--model", "tiny", "--split", "valid"], 1, "The dataset `arithmetic` has no split 'valid'"),
        (["eval", "--model", "tiny", "--set", "nonsense=1"], 2, "Unknown config key: nonsense"),
        (["train", "--config", "configs/custom.toml"], 2, "Config file not found: configs/custom.toml"),
        (
            ["train", "--config", "smoke_test", "--set", "learning_rate=invalid_string"],
            2,
            "Failed to coerce value: 'invalid_string' to <class 'float'>",
        ),
        (
            ["eval", "--model", "tiny", "--samples", "2", "--output", "no/f.jsonl"],
            1,
            "Cannot write no/f.jsonl: No such file or directory",
        ),
    ],
)  # fmt: skip
def test_mistakes_get_their_first_line_a_hint_and_an_exit_code(
    words: list[str], code: int, first_line: str
) -> None:
    result = grpo(*words)
    assert result.exit_code == code
    assert result.stderr.splitlines()[0] == first_line
    assert "\n\nhint: " in result.stderr
    assert "Traceback" not in result.stderr


def test_generate_wants_a_prompt_or_a_chat() -> None:
    assert grpo("generate", "--model", "tiny").exit_code == 2
    assert grpo("generate", "--model", "tiny", "--chat", "--prompt", "x").exit_code == 2


def test_no_mlx_lm_is_told_as_the_guide_has_it(tmp_path: Path) -> None:
    blocker = "import sys; sys.modules['mlx_lm'] = None; sys.argv = ['grpo', 'eval', '--model', 'tiny']\n"
    script = blocker + "from grpo_cli.cli.main import run\nrun()\n"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert (
        "No module named 'mlx_lm" in result.stderr.splitlines()[0]
        or "mlx_lm" in result.stderr.splitlines()[0]
    )
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_step_and_ends_with_130(tmp_path: Path, number: int) -> None:
    words = ["-m", "grpo_cli", "train", "--config", "smoke_test", "--set", "batch_size=2"]
    words += ["--set", "eval_steps=0"]
    process = start(words, cwd=tmp_path, stderr=subprocess.PIPE)
    folder = tmp_path / "outputs" / "smoke_test"
    log = folder / "training_log.jsonl"
    wait_until(lambda: log.exists() and log.read_text(), "the first step", lambda: process.poll() is None)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    (saved,) = folder.glob("checkpoint-*")
    assert f"Stopped after step {saved.name.removeprefix('checkpoint-')}." in stderr
    assert json.loads((saved / "manifest.json").read_text())["files"]["model.safetensors"]["size"] > 3_000_000


def test_a_run_that_fails_before_its_first_step_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(completions, **columns):\n    raise ValueError('boom')\n")
    words = ["train", "--config", "smoke_test", *QUICK, "--set", "eval_steps=0"]
    assert grpo(*words, "--set", "reward_functions=mine.py:f").exit_code == 1
    assert not (tmp_path / "outputs" / "smoke_test").exists()
    assert grpo(*words).exit_code == 0


def test_a_reward_that_prints_does_not_spoil_the_json(tmp_path: Path) -> None:
    code = "def f(completions, **columns):\n    print('noise')\n    return [1.0] * len(completions)\n"
    (tmp_path / "mine.py").write_text(code)
    words = ["eval", "--model", "tiny", "--samples", "2", "--json", "--set", "reward_functions=mine.py:f"]
    result = grpo(*words)
    assert json.loads(result.stdout)["rewards"]["f"]["mean"] == 1.0
    assert "noise" in result.stderr


def test_eval_may_measure_the_training_split() -> None:
    document = json.loads(
        grpo("eval", "--model", "tiny", "--split", "train", "--samples", "2", "--json").stdout
    )
    assert document["split"] == "train"


def test_code_beside_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(
        "open('ran', 'w')\ndef f(completions, **c): return [1.0] * len(completions)\n"
    )
    shutil.copytree(TINY, tmp_path / "run" / "final")
    names = json.dumps(["correctness", f"{tmp_path}/evil.py:f"])
    (tmp_path / "run" / "config.toml").write_text(
        f'model_name = "tiny"\ndataset = "arithmetic"\nsystem_prompt = ""\nreward_functions = {names}\n'
    )
    words = ["eval", "--model", "run/final", "--samples", "2", "--json"]
    result = grpo(*words)
    assert list(json.loads(result.stdout)["rewards"]) == ["correctness"]
    told = "evil.py:f is left out: code that comes with a model is not run unless you ask for it"
    assert told in result.stderr
    assert not (tmp_path / "ran").exists()
    asked = grpo(*words, "--config", "run/config.toml")
    assert list(json.loads(asked.stdout)["rewards"]) == ["correctness", "f"]
    assert (tmp_path / "ran").exists()


def test_streamed_text_is_written_as_it_is_but_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show("a :warning: [red]b[/red]\tc\n\x1b[31md")
    assert capsys.readouterr().out == "a :warning: [red]b[/red]\tc\n␛[31md"


def test_a_failed_run_ends_with_the_reason_where_it_is_saved_and_the_command_that_resumes_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(
        "calls = 0\n"
        "def f(completions, **columns):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    assert calls < 3, 'boom'\n"
        "    return [float(i) for i in range(len(completions))]\n"
    )
    place = "my runs [1] 🙂"
    words = ["--set", "eval_steps=0", "--set", f"output_dir={place}", "--set", "reward_functions=mine.py:f"]
    failed = grpo("train", "--config", "smoke_test", *QUICK, "--set", "max_steps=4", *words)
    assert failed.exit_code == 1
    _, message = failed.stderr.split("Reward `f` raised AssertionError: boom")
    assert message.endswith(
        f"\n\nStep 2 is saved in {place}/smoke_test/checkpoint-2.\n"
        f"Resume with: `grpo resume '{place}/smoke_test'`\n"
    )
    resumed = shlex.split(message.rpartition("`grpo ")[2].rstrip("`\n"))
    (tmp_path / "mine.py").write_text("def f(completions, **columns): return [0.0] * len(completions)\n")
    assert grpo(*resumed, "--accept-changes").exit_code == 0
