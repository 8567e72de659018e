"""The groups of each step: dynamic sampling, and parts of a generation, by hand and in whole runs."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine import setup
from grpo_cli.engine.collect_rollouts import collect_rollouts, sample_and_score, set_advantages
from grpo_cli.engine.resume import resume
from grpo_cli.engine.rollout.buffer import DrawnGroups, RolloutBuffer, is_informative
from grpo_cli.engine.rollout.prompt_order import DataOrder
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from grpo_cli.engine.update_policy import make_batches
from grpo_cli.types import RolloutGroup
from tests.support.interruptions import crash, interrupt_after
from tests.support.random_models import group, rollout
from tests.support.small_runs import SHORT, lines, log_without_times, small
from tests.support.small_runs import weights as weight_bytes
from tests.support.steps import scored_groups


def scored(*rewards: float, name: int = 0) -> RolloutGroup:
    """A group of completions with given rewards; `name` is its prompt."""
    one = group([name], [rollout([1, 2]) for _ in rewards])
    for item, reward in zip(one.rollouts, rewards, strict=True):
        item.reward = reward
    return one


def names(groups: list[RolloutGroup]) -> list[int]:
    return [one.prompt_ids[0] for one in groups]


# --- choosing ----------------------------------------------------------------------------------------


def test_a_group_teaches_where_two_rewards_differ() -> None:
    assert is_informative(scored(0.0, 0.0, 1.0))
    assert not is_informative(scored(0.7, 0.7, 0.7))


def test_a_draw_asks_for_as_many_prompts_as_are_likely_to_do() -> None:
    draw = DrawnGroups(wanted=4, position=10)
    assert (draw.missing, draw.next_count) == (4, 4)
    draw.take([scored(0, 1, name=0), scored(0, 0, name=1), scored(1, 1, name=2), scored(2, 2, name=3)], 1.5)
    assert (draw.missing, draw.position, draw.batches) == (3, 14, 1)
    assert draw.next_count == 4  # 3 missing / a share of 1 in 4 would be 12: no more than a whole batch
    draw.take([scored(1, 0, name=4), scored(0, 1, name=5), scored(0, 1, name=6), scored(1, 1, name=7)], 0.5)
    assert (draw.missing, draw.position, draw.tokens, draw.seconds) == (0, 18, 32, 2.0)
    assert names(draw.chosen()) == [0, 4, 5, 6]
    numbers = draw.numbers()
    assert numbers.pop("reward_mean_drawn") == pytest.approx(12 / 16)
    assert numbers == {"rollout_batches": 2, "groups_drawn": 8, "groups_discarded": 4}


def test_a_few_missing_groups_need_a_small_batch() -> None:
    draw = DrawnGroups(wanted=4, position=0)
    draw.take([scored(0, 1), scored(0, 1), scored(0, 1), scored(1, 1)], 0.0)
    assert draw.next_count == 2  # 1 missing / (3 of 4) = 1.33


def test_what_is_missing_is_filled_up_in_the_streams_order() -> None:
    draw = DrawnGroups(wanted=3, position=0)
    draw.take([scored(1, 1, name=0), scored(0, 0, name=1), scored(0, 1, name=2)], 0.0)
    draw.take([scored(1, 1, name=3), scored(0, 1, name=4)], 0.0)
    assert names(draw.chosen()) == [0, 2, 4]


def test_without_dynamic_sampling_everything_drawn_is_chosen() -> None:
    draw = DrawnGroups(wanted=2, position=0)
    draw.take([scored(1, 1, name=0), scored(0, 1, name=1)], 0.0)
    assert names(draw.chosen()) == [0, 1]


# --- parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_generation", "iterations", "expected"),
    [
        (1, 1, [0, 1, 2, 3]),
        (1, 2, [0, 0, 1, 1]),
        (2, 1, [0, 1, 2, 3]),
        (2, 2, [0, 1, 0, 1, 2, 3, 2, 3]),
        (3, 2, [0, 1, 2, 0, 1, 2, 3]),
    ],
)
def test_steps_take_the_parts_in_trls_order(
    per_generation: int, iterations: int, expected: list[int]
) -> None:
    """And so they do where everything is thrown away but what a checkpoint holds, after every step."""
    for forgets in (False, True):
        parts = RolloutBuffer(size=2, per_generation=per_generation, iterations=iterations)
        taken, made = [], 0
        for step in range(1, len(expected) + 1):
            if not parts.waiting:
                count = 2 * per_generation
                parts.fill([scored(0, 1, name=name) for name in range(made, made + count)])
                made += count
            taken.append(names(parts.waiting[0].groups))
            parts.advance(step)
            if forgets:
                kept = parts.groups
                parts = RolloutBuffer(size=2, per_generation=per_generation, iterations=iterations)
                parts.fill(kept)
        assert taken == [[2 * part, 2 * part + 1] for part in expected]


# --- in a run ------------------------------------------------------------------------------------------

# Rewards that are equal in the groups of some prompts, whatever was completed.
SELECTIVE = """
def selective(prompts, completions, answer, **columns):
    texts = [completion[0]["content"] for completion in completions]
    return [0.0 if int(gold) % 3 else sum(map(ord, text)) / 1e4 for text, gold in zip(texts, answer)]

def never(prompts, completions, **columns):
    return [1.0] * len(completions)
"""


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "mine.py").write_text(SELECTIVE)
    return {**SHORT, "reward_functions": [f"{folder}/mine.py:selective"], "dynamic_sampling": True, **changes}


def recorded_rollouts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The answers of the prompts of every batch that is sampled."""
    batches: list[list[str]] = []

    def recorded(run: Run, prompts: Any, at: int) -> Any:
        batches.append([prompt.example.answer for prompt in prompts])
        return sample_and_score(run, prompts, at)

    monkeypatch.setattr("grpo_cli.engine.collect_rollouts.sample_and_score", recorded)
    return batches


def test_uninformative_groups_are_replaced_by_new_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = setup.prepare(small(tmp_path, **settings(tmp_path, max_train_samples=30)))
    batches = recorded_rollouts(monkeypatch)
    drawn = collect_rollouts(run, 0)
    groups = drawn.chosen()
    set_advantages(groups, run.config)
    order = DataOrder(30, 0).take(0, sum(map(len, batches)))
    stream = [run.train_prompts[index].example.answer for index in order]
    assert [answer for batch in batches for answer in batch] == stream  # no prompt twice, none left out
    teaching = [answer for answer in stream if int(answer) % 3 == 0]
    assert drawn.position == len(stream)
    if drawn.batches < 3:
        assert [one.example.answer for one in groups] == teaching[:2]
    assert len(groups) == 2
    assert drawn.batches > 1  # the case is one where something was to be replaced
    assert all(any(r.advantage for r in one.rollouts) == is_informative(one) for one in groups)


def test_a_spent_budget_fills_the_step_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"reward_functions": [f"{tmp_path}/mine.py:never"], "dynamic_sampling_budget": 4}
    run = setup.prepare(small(tmp_path, **settings(tmp_path, **changes)))
    batches = recorded_rollouts(monkeypatch)
    groups = scored_groups(run)
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    assert [one.example.answer for one in groups] == batches[0]
    assert make_batches(run, groups) == []


def test_the_log_counts_what_was_drawn_and_the_state_where_the_stream_is(tmp_path: Path) -> None:
    """Ten examples: epochs end inside the run, and inside a step. The steps stay as many as planned."""
    config = small(tmp_path, **settings(tmp_path))
    train(config)
    log = lines(config.run_dir)
    assert len(log) == 6
    drawn = [line["groups_drawn"] for line in log]
    assert max(line["rollout_batches"] for line in log) > 1
    assert all(line["groups_discarded"] == line["groups_drawn"] - 2 for line in log)
    assert [line["epoch"] for line in log] == [pytest.approx(sum(drawn[: i + 1]) / 10) for i in range(6)]
    assert log[-1]["epoch"] > 1.2  # more than the 12 prompts of 6 steps
    state, groups = read_state(config.run_dir / "final")
    assert (state.prompts_used, groups) == (sum(drawn), [])
    assert not any("groups_drawn" in line for line in plain_log(tmp_path))


def plain_log(folder: Path) -> list[dict[str, Any]]:
    config = small(folder, run_name="plain", **{**SHORT, "max_steps": 1})
    train(config)
    return lines(config.run_dir)


VARIANTS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "dynamic in parts": {"steps_per_generation": 2, "max_steps": 6},
    "parts": {"steps_per_generation": 3, "dynamic_sampling": False},
    "parts, twice each": {"steps_per_generation": 2, "num_iterations": 2, "dynamic_sampling": False},
    "parts with kl": {"steps_per_generation": 3, "kl_coeff": 0.1, "dynamic_sampling": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_is_uninterrupted(variant: str, tmp_path: Path) -> None:
    """By a crash inside a step, and by Ctrl-C: in the middle of parts, and with prompts that were skipped."""
    wanted = settings(tmp_path, **VARIANTS[variant])
    whole = small(tmp_path, run_name="whole", save_steps=2, **wanted)
    train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **wanted)
    crash(broken, 2 if "dynamic" in variant else 3)
    with pytest.raises(KeyboardInterrupt):
        resume(broken.run_dir, [], interrupt_after(5))
    resume(broken.run_dir)
    assert log_without_times(broken.run_dir) == log_without_times(whole.run_dir)
    assert weight_bytes(broken.run_dir) == weight_bytes(whole.run_dir)
    assert (broken.run_dir / "completions.jsonl").read_bytes() == (
        whole.run_dir / "completions.jsonl"
    ).read_bytes()


def test_a_checkpoint_between_the_parts_holds_those_that_are_left(tmp_path: Path) -> None:
    config = small(tmp_path, **{**SHORT, "steps_per_generation": 3, "save_steps": 1, "keep_checkpoints": 6})
    train(config)
    kept = [read_state(config.run_dir / f"checkpoint-{step}") for step in range(1, 7)]
    assert [len(groups) for _, groups in kept] == [4, 2, 0, 4, 2, 0]
    assert [state.prompts_used for state, _ in kept] == [6, 6, 6, 12, 12, 12]
    assert kept[0][1][2:] == kept[1][1]
    log = lines(config.run_dir)
    assert [line["rollout_tokens_per_second"] is None for line in log] == [False, True, True] * 2
    assert [line["ratio_deviation"] is None for line in log] == [False, True, True] * 2
    answers = [
        json.loads(text)["answer"] for text in (config.run_dir / "completions.jsonl").read_text().splitlines()
    ]
    run = setup.prepare(small(tmp_path, run_name="other", **SHORT))
    order = DataOrder(10, 0).take(0, 12)
    assert answers == [run.train_prompts[index].example.answer for index in order]


def test_later_parts_keep_the_samplers_logprobs_as_the_old_ones(tmp_path: Path) -> None:
    """The policy has moved when a later part comes to its first update: its ratio is not 1 any more."""
    run = setup.prepare(
        small(tmp_path, **{**SHORT, "steps_per_generation": 2, "num_iterations": 2, "learning_rate": 1e-2})
    )
    mx.random.seed(0)
    run.buffer.fill(scored_groups(run))
    later = run.buffer.waiting[1].groups
    batches = make_batches(run, later)
    assert not any(batch.old_is_current for batch in batches)
    for batch in batches:
        for row, item in enumerate(batch.rollouts):
            old: Any = batch.old_logprobs[row, : len(item.token_ids)].tolist()
            assert old == pytest.approx(item.logprobs)
