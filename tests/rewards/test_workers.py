"""Rewards in processes of their own: the same numbers and errors, and nothing left of them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.errors import RewardError
from grpo_cli.rewards import workers as module
from grpo_cli.rewards.score import Scorer, parts, score
from grpo_cli.rewards.table import load_rewards
from grpo_cli.types import RolloutGroup
from tests.support.reward_groups import group
from tests.support.waiting import HANG, wait_until

SOURCE = '''
import os, signal, time

def content(completions): return [c[0]["content"] for c in completions]

def where(completions, **columns):
    return [float(os.getpid())] * len(completions)

def rank(prompts, completions, answer, level, **columns):
    """Compares the completions of each group, and uses all that it is given."""
    texts, asked = content(completions), [p[-1]["content"] for p in prompts]
    return [
        sum(len(t) < len(text) for t, q in zip(texts, asked) if q == question) + 10 * n + len(a) / 100
        for text, question, n, a in zip(texts, asked, level, answer)
    ]

async def later(completions, **columns):
    return [float(os.getpid())] * len(completions)

def brittle(completions, **columns):
    print("a reward may print")
    return [1.0 / (text != "bad") for text in content(completions)]

def slow(completions, **columns):
    time.sleep(3600 if "wait" in content(completions) else 0)
    return [1.0] * len(completions)

def dies(completions, **columns):
    os.kill(os.getpid(), signal.SIGKILL)

def leaves(completions, **columns):
    os._exit(7)

def nothing(completions, **columns):
    return None
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "mine.py").write_text(SOURCE)
    return str(tmp_path / "mine.py")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert [child for child in multiprocessing.active_children() if child.name == "grpo-reward"] == []


def batch(texts: int = 3, prompts: int = 5) -> list[RolloutGroup]:
    """Groups whose completions differ in length; `level` is in all of them, `odd` is not."""
    return [
        group(
            f"{number}?",
            "7" * number,
            ["x" * ((5 * number + 3 * index) % 7) for index in range(texts)],
            level=number,
            **({"odd": 1} if number % 2 else {}),
        )
        for number in range(prompts)
    ]


def scored(names: list[str], groups: list[RolloutGroup], workers: int, timeout: float = 30.0) -> list[Any]:
    rewards = load_rewards(names)
    with Scorer(rewards, [1.0] * len(names), timeout, workers, names) as scorer:
        scorer.score(groups)
    return [rollout.rewards for one in groups for rollout in one.rollouts]


def error_of(name: str, groups: list[RolloutGroup], timeout: float = 30.0) -> RewardError:
    with pytest.raises(RewardError) as error:
        scored([name], groups, 2, timeout)
    return error.value


def test_the_numbers_and_their_order_are_those_of_one_process(mine: str) -> None:
    names = ["correctness", f"{mine}:rank", "int", "xmlcount", f"{mine}:rank"]
    here, there = scored(names, batch(), 0), scored(names, batch(), 3)
    assert there == here
    assert [list(rewards) for rewards in there] == [["correctness", "rank", "int", "xmlcount", "rank_2"]] * 15
    assert len({rewards["rank"] for rewards in here}) > 5


def test_plain_rewards_are_computed_elsewhere_and_async_ones_here(mine: str) -> None:
    rewards = scored([f"{mine}:where", f"{mine}:later"], batch(2, 40), 2)
    assert {values["later"] for values in rewards} == {float(os.getpid())}
    elsewhere = {values["where"] for values in rewards}
    assert 1 <= len(elsewhere) <= 2
    assert float(os.getpid()) not in elsewhere


def test_the_processes_serve_all_batches(mine: str) -> None:
    names = [f"{mine}:where"]
    with Scorer(load_rewards(names), [1.0], 30.0, 1, names) as scorer:
        seen = set()
        for _ in range(3):
            groups = batch()
            scorer.score(groups)
            seen |= {rollout.reward for one in groups for rollout in one.rollouts}
    assert len(seen) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.pop()), 0)


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([2, 2, 2, 2], 2, [(0, 4), (4, 8)]),
        ([2, 2, 2], 2, [(0, 2), (2, 6)]),
        ([3, 3], 5, [(0, 3), (3, 6)]),
        ([1, 4, 2], 3, [(0, 1), (1, 5), (5, 7)]),
        ([8], 4, [(0, 8)]),
    ],
)
def test_groups_are_never_cut(sizes: list[int], count: int, expected: list[tuple[int, int]]) -> None:
    assert parts([group("", "", ["x"] * size) for size in sizes], count) == expected


def test_an_error_is_the_one_of_this_process(mine: str, capfd: pytest.CaptureFixture[str]) -> None:
    groups = [group("a", "", ["good", "fine"]), group("b", "", ["good", "bad"]), group("c", "", ["ok"])]
    there = error_of(f"{mine}:brittle", groups)
    with pytest.raises(RewardError) as here:
        score(load_rewards([f"{mine}:brittle"]), [1.0], groups)
    assert (there.message, there.hint) == (here.value.message, here.value.hint)
    assert there.message.endswith("completion 4 of 5: 'bad'")
    assert there.trace == here.value.trace != ""
    assert capfd.readouterr().out == ""  # what a reward prints stays out of the results


def test_a_wrong_value_is_refused_with_its_completion(mine: str) -> None:
    error = error_of(f"{mine}:nothing", batch())
    assert (
        error.message == "Reward `nothing` returned a NoneType, not a list of numbers\ncompletion 1 of 15: ''"
    )


def test_one_that_takes_too_long_is_killed(mine: str) -> None:
    started = time.monotonic()
    error = error_of(f"{mine}:slow", [group("a", "", ["quick"]), group("b", "", ["wait"])], timeout=0.5)
    assert time.monotonic() - started < HANG
    assert error.message == "Reward `slow` did not answer within reward_timeout = 0.5 s"
    assert error.hint == "allow it more time: `--set reward_timeout=1`, or 0 for no limit"


def test_what_waits_behind_a_late_one_is_late_too(mine: str) -> None:
    """One process: the group that was asked about first, the last of the batch, takes too long."""
    names, groups = [f"{mine}:slow"], [group("a", "", ["quick"]), group("b", "", ["wait"])]
    with (
        Scorer(load_rewards(names), [1.0], 0.5, 1, names) as scorer,
        pytest.raises(RewardError, match=r"`slow` did not answer within reward_timeout = 0\.5 s"),
        scorer.overlapping(groups, 1) as pending,
    ):
        pending.begin(1)
        pending.begin(0)


@pytest.mark.parametrize(("name", "how"), [("dies", "by signal 9"), ("leaves", "with exit code 7")])
def test_a_process_that_ends_is_told(mine: str, name: str, how: str) -> None:
    error = error_of(f"{mine}:{name}", batch())
    assert error.message == f"The process that computed reward `{name}` ended, {how}"
    assert "`--set reward_workers=0`" in error.hint


def test_a_scorer_starts_again_after_an_error(mine: str) -> None:
    names = [f"{mine}:brittle"]
    with Scorer(load_rewards(names), [1.0], 30.0, 2, names) as scorer:
        with pytest.raises(RewardError):
            scorer.score([group("a", "", ["bad"])])
        groups = [group("a", "", ["good"])]
        scorer.score(groups)
    assert groups[0].rollouts[0].reward == 1.0


def test_a_file_that_fails_only_there_is_told(tmp_path: Path, mine: str) -> None:
    names = [f"{mine}:where"]
    rewards = load_rewards(names)
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(RewardError, match=r"Reward file failed: .*ZeroDivisionError"):
        Scorer(rewards, [1.0], 30.0, 1, names).score(batch())


def test_a_column_that_cannot_be_sent_is_told(mine: str) -> None:
    groups = [group("a", "", ["x"], level=lambda: 1)]
    error = error_of(f"{mine}:where", groups)
    assert error.message.startswith("Reward `where` cannot be called in another process: ")
    assert "`reward_workers = 0`" in error.hint


def test_closing_kills_what_still_runs(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSING_SECONDS", 0.2)
    names = [f"{mine}:slow"]
    scorer = Scorer(load_rewards(names), [1.0], 0.0, 2, names)
    scorer.start([group("a", "", ["wait"]), group("b", "", ["wait"])])
    children: list[int | None] = []

    def both_run() -> bool:
        children[:] = [one.pid for one in multiprocessing.active_children() if one.name == "grpo-reward"]
        return len(children) == 2

    wait_until(both_run, "two processes")
    scorer.close()
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


PROGRAM = """
import sys
from grpo_cli.rewards.score import Scorer
from grpo_cli.rewards.table import load_rewards
from tests.support.reward_groups import group

if __name__ == "__main__":
    names = [sys.argv[1] + ":where", sys.argv[1] + ":slow"]
    scorer = Scorer(load_rewards(names), [1.0, 1.0], 0.0, 1, names)
    first = group("a", "", ["x"])
    pending = scorer.start([first])
    pending.result()
    print(int(first.rollouts[0].rewards["where"]), flush=True)
    scorer.score([group("a", "", ["wait"])])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_parent(number: int, mine: str, tmp_path: Path) -> None:
    """Whatever ends the parent, and though the process is busy. SIGINT goes to all, as Ctrl-C does."""
    (tmp_path / "program.py").write_text(PROGRAM)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), mine],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.5)  # so that it waits for the slow one
    assert is_running(worker)
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, said = parent.communicate(timeout=HANG)
    wait_until(lambda: not is_running(worker), "the end of the worker")
    assert said.count("Traceback") == (1 if number == signal.SIGINT else 0)  # the parent's, not the worker's


def is_running(pid: int) -> bool:
    """Whether the process lives, and is not only waiting to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


PROCESSES = """
import multiprocessing, os, time

def half(text): return len(text) / 2

def in_own_process(text, queue): queue.put(half(text))

def sandboxed(completions, **columns):
    values = []
    for completion in completions:
        queue = multiprocessing.Queue()
        process = multiprocessing.Process(target=in_own_process, args=(completion[0]["content"], queue))
        process.start()
        values.append(queue.get(timeout=60))
        process.join()
    return values

def pool(completions, **columns):
    with multiprocessing.get_context("spawn").Pool(1) as started:  # as on macOS
        return started.map(half, [completion[0]["content"] for completion in completions])

def children(completions, **columns):
    if (pid := os.fork()) == 0:
        time.sleep(600)
    return [float(pid)] * len(completions)
"""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "starts_processes.py").write_text(PROCESSES)
    monkeypatch.delitem(sys.modules, "starts_processes", raising=False)
    return str(tmp_path / "starts_processes.py")


@pytest.mark.parametrize("name", ["sandboxed", "pool"])
def test_a_reward_in_a_process_may_start_processes(starts: str, name: str) -> None:
    values = scored([f"{starts}:{name}"], [group("a", "", ["x", "four"])], 1, 120.0)
    assert values == [{name: 0.5}, {name: 2.0}]


def test_what_a_reward_has_started_ends_with_its_process(starts: str) -> None:
    [values] = scored([f"{starts}:children"], [group("a", "", ["x"])], 1, 120.0)
    deadline = time.monotonic() + 20
    while is_running(int(values["children"])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(values["children"]))
