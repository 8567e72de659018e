"""A run that restarts itself: bounded, with the variables that the failure asks for."""

import os
from pathlib import Path

import pytest

from grpo_cli.cli import restart
from grpo_cli.cli.restart import MOST_RESTARTS, TIMES, restarting, restarts
from grpo_cli.device import prepare
from grpo_cli.engine.failures import GPU_TIMEOUT
from grpo_cli.engine.recovery import SMALL_BUFFERS, DeviceLost, Restart
from grpo_cli.engine.run_dir.incidents import read_incidents
from grpo_cli.engine.train import train
from grpo_cli.errors import ConfigError, TrainingError
from grpo_cli.supervise import LAST_DEVICE
from tests.support.forked import PIPE, start
from tests.support.small_runs import SHORT, small, weights

# Plays two failures in a row in the second step of the first process. What keeps the machine awake only notes
# its start and its end.
REWARD = """
import os, sys
import pytest
from pathlib import Path
sys.path.insert(0, {root!r})
from grpo_cli.engine.host import awake
from tests.support.device_faults import TEXTS, Faults
from tests.support.letter_reward import mean_letter

awake.BOOTED = Path("/")
if "GRPO_RESTARTED_AT" not in os.environ:
    Faults("backward", TEXTS["resource limit"], (2, 3)).set_up(pytest.MonkeyPatch())
"""
AWAKE = """#!/bin/sh
trap 'echo released >> notes; exit 0' TERM
echo taken >> notes
while :; do sleep 0.05; done
"""


class Replaced(Exception):
    """Stands for the new process."""


def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str = "", alone: bool = True) -> None:
    """A timeout of the GPU; raises Replaced with the words of the new process."""

    def execv(_path: str, words: list[str]) -> None:
        raise Replaced(*words)

    monkeypatch.setattr(os, "execv", execv)
    for name in (*SMALL_BUFFERS, TIMES, LAST_DEVICE):
        monkeypatch.setenv(name, at if name == TIMES else "")
    with restarting(["--quiet", "--accept-changes"], is_alone=alone):
        error = Restart(GPU_TIMEOUT, "Caused GPU Timeout Error")
        error.run_dir = tmp_path
        raise error


def test_the_new_process_resumes_the_run_with_smaller_command_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(restart.time, "time", lambda: 10_000.0)
    with pytest.raises(Replaced) as replaced:
        failing(tmp_path, monkeypatch, "9000,1")
    started = list(replaced.value.args)
    assert started[-4:] == ["resume", str(tmp_path), "--quiet", "--accept-changes"]
    assert os.environ[LAST_DEVICE] == prepare().kind
    assert os.environ[TIMES] == "9000,10000"
    assert {name: os.environ[name] for name in SMALL_BUFFERS} == SMALL_BUFFERS
    assert "Caused GPU Timeout Error" in capsys.readouterr().err


def test_too_many_within_an_hour_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart.time, "time", lambda: 10_000.0)
    with pytest.raises(Restart):
        failing(tmp_path, monkeypatch, ",".join(["9000"] * MOST_RESTARTS))


def test_one_of_several_ranks_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Restart):
        failing(tmp_path, monkeypatch, alone=False)


@pytest.mark.parametrize("error", [TrainingError("NaN"), ConfigError("no such key"), RuntimeError("shapes")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)), restarting():
        raise error


def test_a_device_that_is_lost_while_a_run_loads_ends_it_as_in_a_step() -> None:
    error = RuntimeError("cudaGetDevice(&device) failed: no CUDA-capable device is detected")
    with pytest.raises(DeviceLost, match="no CUDA-capable device") as ended, restarting():
        raise error
    assert (ended.value.exit_code, ended.value.__cause__) == (75, error)


def test_times_of_the_last_hour_count_and_nothing_else() -> None:
    assert restarts("9000,6399,x,,99999,10000", 10_000.0) == [9000.0, 10000.0]


def test_a_resource_limit_met_twice_starts_a_new_process_that_resumes_by_itself(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name, text in (("reward.py", REWARD.format(root=str(root))), ("systemd-inhibit", AWAKE)):
        (tmp_path / name).write_text(text)
    (tmp_path / "systemd-inhibit").chmod(0o755)
    changes = {**SHORT, "max_steps": 3, "save_steps": 9, "num_generations": 2}
    train(calm := small(tmp_path / "calm", **changes))
    words = ["--config", f"{calm.run_dir}/config.toml", "--output-dir", str(tmp_path / "night")]
    words += ["--set", f"reward_functions={tmp_path}/reward.py:mean_letter", "--quiet"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    process = start(["-m", "grpo_cli", "train", *words], cwd=tmp_path, env=environment, stderr=PIPE)
    _, told = process.communicate()
    assert process.returncode == 0, told
    assert "Step 1 is saved in night/run/checkpoint-1." in told
    assert "Restarting in a new process." in told
    assert "2 interruptions: resource limit ×2" in told
    run_dir = tmp_path / "night/run"
    kinds = [(one.kind, one.step) for one in read_incidents(run_dir)]
    assert kinds == [("resource limit", 1), ("resource limit", 1), ("resumed", 1)]
    assert (tmp_path / "notes").read_text().split() == ["taken", "released"] * 2
    assert weights(run_dir) == weights(calm.run_dir)
