"""A run that learns nothing says so, why, and what helps; one that learns says nothing of it."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.cli.summary import heading
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.guards.nothing_learned import FEWEST_STEPS, Teaching
from grpo_cli.engine.train import train
from tests.support.reward_groups import group
from tests.support.small_runs import lines, small

REWARDS = """
def constant(completions, **columns): return [-abs(20 - len([completion])) for completion in completions]
def letters(completions, **columns): return [len(completion) / 100 for completion in completions]
def chatty(completions, answer, log_metric, log_extra, trainer_state, **columns):
    log_metric("letters", sum(map(len, completions)) / len(completions))
    log_metric("loss", 7.0)
    log_extra("first", [completion[:1] for completion in completions])
    values = [float(trainer_state.global_step + len(c)) for c in completions]
    return [None if int(a) % 2 else value for a, value in zip(answer, values)]
def never(completions, **columns): return [None] * len(completions)
def slips(completions, **columns): return [float("nan")] + [float(len(c)) for c in completions[1:]]
"""


def step(
    texts: list[str], rewards: list[dict[str, float | None]], **numbers: Any
) -> tuple[dict[str, Any], Any]:
    one = group("?", "1", texts)
    for rollout, named in zip(one.rollouts, rewards, strict=True):
        rollout.rewards = named
    names = {f"rewards/{name}": value for name, value in rewards[0].items()}
    return {"reward_mean": 0.0, "truncated_fraction": 0.0, **names, **numbers}, [one]


def after(
    count: int, taught: bool = False, own: Collection[str] = (), **numbers: Any
) -> tuple[Teaching, list[str]]:
    """The record and the notices after `count` steps of two completions each."""
    teaching, said = Teaching(config=Config(), own=own), []
    for number in range(count):
        texts = [f"{number} a", f"{number} b"]
        teaching.take(*step(texts, [{"zero": 0.0}, {"zero": 0.0}], **numbers), taught)
        said += list(teaching.notices(is_last=False))
    return teaching, said


def test_it_is_told_once_after_the_doctors_number_of_steps() -> None:
    assert after(FEWEST_STEPS - 1)[1] == []
    _, said = after(FEWEST_STEPS + 3)
    assert len(said) == 1
    assert said[0].startswith("nothing to learn in the first 5 steps: the mean reward is 0 in all 5 steps: ")
    assert "reward `zero` is constant: 0 for 10 different completions; look at a completion first" in said[0]
    assert "`num_generations = 16`" in said[0]


def test_at_the_end_it_says_why() -> None:
    nothing = after(12)[0].explain()
    assert nothing is not None
    assert nothing.seen == (
        "the mean reward is 0 in all 12 steps: rewards/zero 0; reward `zero` is constant: 0 for 24 different "
        "completions"
    )
    assert nothing.cures[0].startswith("look at a completion first")
    cut = after(12, truncated_fraction=1.0)[0].explain()
    assert cut is not None
    assert cut.cures[0].startswith(
        "no completion reaches its answer: 100 % are cut off. Raise max_new_tokens"
    )
    once = after(1, reward_mean=-19.0)[0].explain()
    assert once is not None
    assert once.seen.startswith("all rewards are equal in each group of its only step")
    equal = after(12, reward_mean=-19.0)[0].explain()
    assert equal is not None
    assert equal.seen.startswith("all rewards are equal in each group of all 12 steps")
    assert equal.cures[0].startswith("sample more, and more varied, completions")


def test_no_tags_are_rewarded_in_an_environments_task() -> None:
    """Its completions are calls and moves; rewards of `<answer>` would teach another task."""
    config = Config(environment="guess", num_episodes=4, reward_functions=["environment"], max_new_tokens=64)
    teaching = Teaching(config=config)
    teaching.take(*step(["a", "b"], [{"environment": 0.0}, {"environment": 0.0}]), False)
    nothing = teaching.explain()
    assert nothing is not None
    assert nothing.cures[1:] == ["num_generations = 16", "max_new_tokens = 128"]


def test_what_was_solved_from_the_start_needs_no_cure() -> None:
    nothing = after(6, reward_mean=2.0, **{"rewards/correctness": 2.0})[0].explain()
    assert nothing is not None
    assert (nothing.seen, nothing.cures) == (
        "nothing is left to learn (100 % of its completions are right)",
        [],
    )


def test_a_run_that_learns_hears_nothing_but_of_a_constant_reward_of_its_own() -> None:
    teaching, said = after(12, taught=True)
    assert (teaching.explain(), said) == (None, [])
    texts = [f"{number}" for number in range(10)]
    teaching, said = Teaching(config=Config(), own={"mine"}), []
    for _ in range(FEWEST_STEPS):
        texts = [f"{text}." for text in texts]
        teaching.take(*step(texts, [{"mine": -19.0, "built_in": 0.0}] * 10), taught=True)
        said += list(teaching.notices(is_last=False))
    assert said == [
        "reward `mine` is constant: -19 for 50 different completions; look at it in completions.jsonl"
    ]


def finished(tmp_path: Path, reward: str, **changes: Any) -> tuple[list[str], events.RunFinished]:
    """The notices of a run with a reward of the file above, and how it ended."""
    (tmp_path / "rewards_of_teaching.py").write_text(REWARDS)
    seen: list[events.Event] = []
    spec = f"{tmp_path / 'rewards_of_teaching.py'}:{reward}"
    settings = {"reward_functions": [spec], "max_new_tokens": 8, "num_generations": 4, **changes}
    train(small(tmp_path, **settings), seen.append)
    [end] = [event for event in seen if isinstance(event, events.RunFinished)]
    return [event.text for event in seen if isinstance(event, events.Notice)], end


def test_a_whole_run_that_learns_nothing_does_not_say_done(tmp_path: Path) -> None:
    notices, end = finished(tmp_path, "constant", max_steps=6)
    assert any("reward `constant` is constant: -19 for" in text for text in notices)
    told = [line.plain for line in heading(end)]
    assert told[0].startswith("\nNothing was learned: 6 steps in ")
    assert "rewards/constant -19; reward `constant` is constant: -19 for" in told[1]
    assert told[-1] == f"  more: `grpo doctor --run {tmp_path / 'run'}`"


def test_a_whole_run_that_learns_says_done(tmp_path: Path) -> None:
    notices, end = finished(tmp_path, "letters")
    assert end.nothing_learnt is None
    assert heading(end)[0].plain.startswith("\nDone: 2 steps in ")
    assert notices == []


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_reward_logs_is_in_the_files_and_none_is_not_counted(tmp_path: Path, workers: int) -> None:
    finished(tmp_path, "chatty", reward_workers=workers, log_completions=16, reward_timeout=120.0)
    log = lines(tmp_path / "run")
    assert all(line["letters"] > 0 and line["logged/loss"] == 7.0 and line["loss"] != 7.0 for line in log)
    samples = [json.loads(text) for text in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert len(samples) == 32
    for sample in samples:
        assert sample["first"] == sample["completion"][:1]
        value = None if int(sample["answer"]) % 2 else sample["step"] - 1.0 + len(sample["completion"])
        assert (sample["rewards"], sample["reward"]) == ({"chatty": value}, value)
    for line in log:
        own = [s["reward"] for s in samples if s["step"] == line["step"] and s["reward"] is not None]
        assert line["reward_mean"] == pytest.approx(sum(own) / len(own))
        assert line.get("unscored_fraction", 0.0) == pytest.approx(1 - len(own) / 16)


def test_where_no_reward_applies_at_all_the_run_goes_on_and_says_so(tmp_path: Path) -> None:
    notices, end = finished(tmp_path, "never")
    assert any(
        "every reward returned None for 100 % of the completions, among them 4 whole groups: " in text
        for text in notices
    )
    assert end.nothing_learnt is not None
    assert end.nothing_learnt.seen == "no reward applies to any completion of all 2 steps"
    assert end.nothing_learnt.cures[0].startswith("every reward returned None: call one by itself")
    log = lines(tmp_path / "run")
    assert [line["reward_mean"] for line in log] == [None, None]
    assert [line["unscored_groups"] for line in log] == [4, 4]


def test_nan_is_told_with_its_reward_and_its_share(tmp_path: Path) -> None:
    notices, _ = finished(tmp_path, "slips")
    assert [text.partition(";")[0] for text in notices] == [
        "step 1: every reward returned None for 6 % of the completions: these are left out of training",
        "step 1: reward `slips` returned NaN for 6 % of the completions, which counts as None, it does not "
        "apply",
    ]
    assert [line["nan_fraction/slips"] for line in lines(tmp_path / "run")] == [1 / 16, 1 / 16]
