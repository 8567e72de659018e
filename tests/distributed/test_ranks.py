"""Whole runs on several loopback ranks: the result is that of one rank, whatever happens to them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from tests.support import letter_reward
from tests.support.shallow_model import shallow_model
from tests.support.started_ranks import Ranks, free_ports, grpo
from tests.support.waiting import HANG, NEVER, slowness, wait_until

KEPT = ("loss", "grad_norm", "entropy", "reward_mean", "reward_std", "clip_ratio", "completion_length_mean")
SETTINGS = f"""
model_name = "{shallow_model()}"
dataset = "arithmetic"
system_prompt = ""
completion_prefix = ""
reward_functions = ["{letter_reward.__file__}:mean_letter"]
max_train_samples = 20
num_epochs = 1000
max_steps = 4
batch_size = 1
gradient_accumulation_steps = 4
num_generations = 4
max_new_tokens = 12
eval_max_new_tokens = 12
eval_steps = 2
eval_samples = 5
save_steps = 2
log_completions = 4
temperature = 1.5
learning_rate = 1e-3
"""


def settings(folder: Path, **more: Any) -> str:
    """A configuration file in a folder; its run goes to `outputs/run` beside it."""
    file = folder / "run.toml"
    keys = {"output_dir": str(folder / "outputs"), "run_name": "run", **more}
    text = SETTINGS
    for key, value in keys.items():
        text = "\n".join(line for line in text.splitlines() if not line.startswith(f"{key} ="))
        text += f"\n{key} = {json.dumps(value)}\n"
    file.write_text(text)
    return str(file)


def log(folder: Path, name: str = "training_log") -> list[dict[str, Any]]:
    path = folder / "outputs" / "run" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for mine, other in zip(found, expected, strict=True):
        for key in KEPT:
            if key in other:
                assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=1e-7), (mine["step"], key)
        for key in ("eval_accuracy", "eval_format", "eval_length_mean", "truncated_fraction", "epoch"):
            assert mine.get(key) == other.get(key)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A finished run of 1, 2 and 3 ranks."""
    folders = {}
    for count in (1, 2, 3):
        folders[count] = tmp_path_factory.mktemp(f"of-{count}")
        words = ("train", "--config", settings(folders[count]), "--quiet")
        ended = grpo(count, *words) if count > 1 else Ranks([["-m", "grpo_cli", *words]]).wait()
        assert [code for code, _, _ in ended] == [0] * count, ended
    return folders


@pytest.mark.parametrize("count", [2, 3])
def test_metrics_are_those_of_one_rank(runs: dict[int, Path], count: int) -> None:
    assert_alike(log(runs[count]), log(runs[1]))
    texts = [
        [(line["prompt"], line["completion"], line["rewards"]) for line in log(runs[n], "completions")]
        for n in (1, count)
    ]
    assert texts[0] == texts[1]


def test_a_folder_that_holds_a_run_is_refused(runs: dict[int, Path]) -> None:
    before = log(runs[2])
    ended = grpo(2, "train", "--config", str(runs[2] / "run.toml"))
    assert [code for code, _, _ in ended] == [1, 1]
    assert "already holds a run" in ended[0][2]
    assert log(runs[2]) == before


@pytest.mark.parametrize("prompts", [5, 1])
def test_gradients_are_those_of_one_rank(tmp_path: Path, prompts: int) -> None:
    def made(ranks: int) -> dict[str, mx.array]:
        file = tmp_path / f"{ranks}.npz"
        words = ["-m", "tests.support.rank_gradients", str(file), str(prompts)]
        ended = Ranks([words] * ranks).wait()
        assert [code for code, _, _ in ended] == [0] * ranks, ended
        return mx.load(str(file))  # type: ignore[return-value]

    alone = made(1)
    for count in (2, 3):
        together = made(count)
        assert alone.keys() == together.keys() and len(alone) > 80
        for name, expected in alone.items():
            size = float(mx.sqrt(expected.square().sum()))
            gap = float(mx.sqrt((together[name] - expected).square().sum()))
            assert gap <= 1e-5 * size + 1e-9, (count, name)


def test_gradients_of_turns_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Tokens that an environment wrote are in no rank's gradient."""
    file = tmp_path / "two.npz"
    ended = Ranks([["-m", "tests.support.rank_gradients", str(file), "3", "forced"]] * 2).wait()
    assert [code for code, _, _ in ended] == [0, 0], ended
    found: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
    for loss_type in LOSS_TYPES:
        names = [name for name in found if name.startswith(f"{loss_type}.")]
        norm = sum(float(found[f"plain {name}"].square().sum()) for name in names) ** 0.5
        gaps = [float(mx.abs(found[name] - found[f"plain {name}"]).max()) for name in names]
        assert len(names) > 10 and norm > 1e-8  # vespo weighs completions that moved so far by almost 0
        assert max(gaps) < 1e-5 * norm, loss_type


@pytest.mark.parametrize("count", [1, 3])
def test_a_checkpoint_of_two_ranks_goes_on_with_as_many_as_there_are(
    runs: dict[int, Path], tmp_path: Path, count: int
) -> None:
    shutil.copytree(runs[2] / "outputs", tmp_path / "outputs")
    ended = Ranks(
        [["-m", "grpo_cli", "resume", str(tmp_path / "outputs/run/checkpoint-2"), "--quiet"]] * count
    ).wait()
    assert [code for code, _, _ in ended] == [0] * count, ended
    assert_alike(log(tmp_path), log(runs[2]))
    prompts = [[line["prompt"] for line in log(folder, "completions")] for folder in (tmp_path, runs[2])]
    assert prompts[0] == prompts[1]


def test_a_checkpoint_is_brought_to_a_machine_that_lacks_it(runs: dict[int, Path], tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(runs[2] / "outputs", here / "outputs")
    there.mkdir()
    script = "import os, sys; os.chdir(sys.argv.pop(1)); from grpo_cli.cli.main import run; run()"
    words = [
        ["-c", script, str(folder), "resume", "outputs/run/checkpoint-2", "--quiet"]
        for folder in (here, there)
    ]
    ended = Ranks(words).wait()
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert_alike(log(here), log(runs[2]))
    brought = sorted(path.name for path in (there / "outputs/run").iterdir())
    assert brought == ["checkpoint-2"]
    for file in (there / "outputs/run/checkpoint-2").iterdir():
        assert file.read_bytes() == (here / "outputs/run/checkpoint-2" / file.name).read_bytes()


def begun(folder: Path, count: int, **more: Any) -> Ranks:
    """A long run that has saved its first checkpoint."""
    more = {"max_steps": 500, "save_steps": 2, "eval_steps": 0, **more}
    ranks = Ranks([["-m", "grpo_cli", "train", "--config", settings(folder, **more)]] * count)
    checkpoint = folder / "outputs/run/checkpoint-2"
    wait_until(checkpoint.exists, "the first checkpoint", still=ranks.are_running)
    return ranks


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_and_a_checkpoint_is_left(tmp_path: Path, killed: int) -> None:
    ranks = begun(tmp_path, 2)
    ranks.processes[killed].send_signal(signal.SIGKILL)
    code, _, errors = ranks.wait()[1 - killed]
    assert code == 1
    assert f"The run ends: rank {killed} (" in errors and "is gone: its process was killed" in errors
    assert "Traceback" not in errors
    (code, _, errors), *_ = Ranks(
        [["-m", "grpo_cli", "resume", str(tmp_path / "outputs/run"), "--set", "max_steps=8"]]
    ).wait()
    if code == 2:  # it had gone further than that
        assert "the run has already made" in errors
    else:
        assert code == 0


def test_a_rank_that_hangs_is_found_by_its_own_watch(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os, time\n"
        "calls = 0\n"
        "def slow(completions, **_):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if os.environ['MLX_RANK'] == '1' and calls > 3:\n"
        f"        while True: time.sleep({NEVER})\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    ranks = begun(tmp_path, 2, reward_functions=[f"{reward}:slow"], rank_timeout=4 * slowness())
    ended = ranks.wait()
    assert [code for code, _, _ in ended] == [1, 1]
    assert "hangs: no sign of work for" in ended[0][2] and "s while scoring" in ended[0][2]


def test_ctrl_c_on_one_rank_saves_and_ends_all(tmp_path: Path) -> None:
    ranks = begun(tmp_path, 2, save_steps=2)
    ranks.processes[1].send_signal(signal.SIGINT)
    ended = ranks.wait()
    assert [code for code, _, _ in ended] == [130, 130], ended
    assert "Stopped after step" in ended[0][2] and "Resume with: `grpo resume" in ended[0][2]
    assert "Traceback" not in ended[0][2] + ended[1][2]


def test_an_error_of_one_rank_is_told_once_and_ends_all(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os\n"
        "calls = 0\n"
        "def failing(completions, **_):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if os.environ['MLX_RANK'] == '1' and calls > 3: raise ValueError('no judge')\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    ended = begun(tmp_path, 2, reward_functions=[f"{reward}:failing"]).wait()
    assert [code for code, _, _ in ended] == [1, 1]
    assert "rank 1: " in ended[1][2] and "no judge" in ended[1][2]
    assert "The run ends: rank 1 (" in ended[0][2] and "no judge" in ended[0][2]
    assert not (tmp_path / "outputs/run/run.lock").exists()


def test_ranks_that_were_started_with_other_things_are_refused(tmp_path: Path) -> None:
    words = ["-m", "grpo_cli", "train", "--config", settings(tmp_path)]
    first, second = Ranks([words, [*words, "--set", "learning_rate=1e-4", "--set", "seed=7"]]).wait()
    assert (first[0], second[0]) == (1, 1)
    told = first[2].splitlines()[0]
    assert told.startswith("The ranks were started with different inputs: seed: 0 on rank 0 (")
    assert "; learning_rate: 0.001 on rank 0 (" in told and ", 0.0001 on rank 1 (" in told
    # One terminal, one message: but a rank that is told late of the other's speaks for itself.
    assert second[2] == "" or second[2].startswith("rank 1: The ranks were started with different inputs: ")
    assert not (tmp_path / "outputs").exists()


def test_another_model_file_is_refused(tmp_path: Path) -> None:
    from grpo_cli.models import tiny

    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        shutil.copytree(
            Path(str(tiny.__path__[0])), folder, ignore=shutil.ignore_patterns("*.py", "__pycache__")
        )
    config = json.loads((folders[1] / "config.json").read_text())
    (folders[1] / "config.json").write_text(json.dumps(config))  # the same, written otherwise
    script = "import os, sys; os.chdir(sys.argv.pop(1)); from grpo_cli.cli.main import run; run()"
    for place, folder in enumerate(folders):
        (tmp_path / f"cwd{place}").mkdir()
        (tmp_path / f"cwd{place}" / "model").symlink_to(folder)
    file = settings(tmp_path, model_name="./model")
    words = [["-c", script, str(tmp_path / f"cwd{place}"), "train", "--config", file] for place in (0, 1)]
    first, _ = Ranks(words).wait()
    assert first[0] == 1
    assert first[2].startswith(
        "The ranks were started with different inputs: model file config.json: sha256 "
    )


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    ports = free_ports(2)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", ports[0]))
        other.listen()
        words = ["-m", "grpo_cli", "train", "--config", settings(tmp_path)]
        first, second = Ranks([words, words], ports).wait()
    assert first[0] == 1
    assert first[2].startswith(f"The port of rank 0 is in use: Port {ports[0]} of 127.0.0.1 is in use")
    assert second[0] == 1
    assert second[2].startswith("The run ends: rank 0 (")


def test_launch_ends_with_the_exit_code_of_a_rank(tmp_path: Path) -> None:
    pytest.importorskip("mlx._distributed_utils.launch")
    file = settings(tmp_path, max_steps=1, eval_steps=0)
    words = [
        "-m",
        "grpo_cli",
        "launch",
        "-n",
        "2",
        "--starting-port",
        str(free_ports(2)[0]),
        "train",
        "--config",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}

    def run(config: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *words, config],
            capture_output=True,
            text=True,
            env=environment,
            timeout=HANG,
            check=False,
        )

    done = run(file)
    assert done.returncode == 0, done.stderr
    assert log(tmp_path)[-1]["step"] == 1
    wrong = run("nowhere.toml")
    assert wrong.returncode == 2
    assert "Config file not found: nowhere.toml" in wrong.stderr


@pytest.mark.parametrize(
    "more",
    [
        {"kl_coeff": 0.1, "lora_rank": 2, "num_iterations": 2},
        {"kl_coeff": 0.1, "batch_size": 2, "gradient_accumulation_steps": 1, "reward_workers": 1},
        {
            **{"dynamic_sampling": True, "steps_per_generation": 2, "soft_overlong_tokens": 6},
            **{"quantize_for_rollouts": True, "microbatch_tokens": 120},
        },
    ],
    ids=[
        "adapters, KL, several updates",
        "fewer microbatches than ranks",
        "dynamic sampling, quantized rollouts",
    ],
)
def test_other_ways_to_train_are_those_of_one_rank(tmp_path: Path, more: dict[str, Any]) -> None:
    folders = {count: tmp_path / str(count) for count in (1, 2)}
    for count, folder in folders.items():
        folder.mkdir()
        words = [
            "-m",
            "grpo_cli",
            "train",
            "--config",
            settings(folder, optimizer="sgd", learning_rate=0.01, **more),
            "--quiet",
        ]
        ended = Ranks([words] * count).wait()
        assert [code for code, _, _ in ended] == [0] * count, ended
    assert_alike(log(folders[2]), log(folders[1]))


def test_an_evaluation_is_shared_out_and_shown_once() -> None:
    words = [
        "-m",
        "grpo_cli",
        "eval",
        "--model",
        "tiny",
        "--samples",
        "9",
        "--num-generations",
        "2",
        "--json",
    ]
    alone, first, second = (*Ranks([words]).wait(), *Ranks([words, words]).wait())
    assert [code for code, _, _ in (alone, first, second)] == [0, 0, 0], (first, second)
    assert second[1] == ""
    mine, other = json.loads(first[1]), json.loads(alone[1])
    for document in (mine, other):
        document.pop("seconds", None)
    assert mine == other
