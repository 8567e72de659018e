"""A process that a reward forks never comes back to the run."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
from grpo_cli.outlet import hold_nobody
from grpo_cli.rewards.score import score
from tests.support.reward_groups import two_groups

def kept(): raise KeyboardInterrupt
def divides(): 1 / 0
ENDS = [lambda: sys.exit(3), sys.exit, lambda: sys.exit("no"), divides, kept, lambda: None]

def forks(completions, **columns):
    child = os.fork()
    if not child:
        end()
        return [9.0] * len(completions)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [float(code)] * len(completions)

async def later(completions, **columns):
    return forks(completions, **columns)

hold_nobody()
owner = os.getpid()
for end in ENDS:
    for function in (forks, later):
        groups = two_groups()
        score([("forks", function)], [1.0], groups, 60.0)
        assert os.getpid() == owner
        print(groups[0].rollouts[0].reward)
"""


def test_whatever_leads_a_forked_process_out_of_its_reward_ends_it() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    codes = [float(line) for line in result.stdout.splitlines()]
    assert codes == [3, 3, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0], result.stderr
    assert result.stderr.count("ZeroDivisionError") == result.stderr.count("KeyboardInterrupt") == 2
    assert "grpo_cli" not in result.stderr


def test_a_forked_process_ends_by_a_signal_as_it_would_without_a_run() -> None:
    program = """
import os, signal
from grpo_cli.engine.signals import SIGNALS, Interruption

with Interruption() as interruption:
    for number in SIGNALS:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    assert not interruption.requested
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
