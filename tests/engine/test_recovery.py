"""Memory that runs short: the work is halved, and comes out the same."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine import events
from grpo_cli.engine.failures import is_allocation_failure
from grpo_cli.engine.recovery import SMALL_BUFFERS, Restart, RowLimit, with_recovery
from grpo_cli.engine.rollout import continuous_batch as decode
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.train import train
from grpo_cli.engine.update import gradient
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.errors import TrainingError
from tests.support.device_faults import TEXTS
from tests.support.gradients import largest_difference
from tests.support.random_models import llama_policy, nanochat_policy
from tests.support.small_runs import SHORT, lines, small
from tests.support.steps import objective_of
from tests.support.update_groups import step_groups

METAL = (
    "[metal::malloc] Attempting to allocate 48736917632 bytes which is greater than the maximum allowed "
    "buffer size of 30150672384 bytes."
)
OBJECTIVE = objective_of("dapo", 0.8, 0.2, 0.2, 0.1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(METAL),
        RuntimeError("[malloc] Unable to allocate 17179869184 bytes."),
        RuntimeError("cudaMallocAsync failed: out of memory"),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"),
        MemoryError(),
    ],
)
def test_failures_are_known_by_their_words(error: Exception) -> None:
    assert is_allocation_failure(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory")])
def test_other_errors_are_not_taken_for_one(error: Exception) -> None:
    assert not is_allocation_failure(error)


def few_rows(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device on which forward and backward of more than so many rows do not fit; returns what was tried."""
    real, tried = gradient.microbatch_loss, []

    def loss(model: Any, batch: Any, objective: Any) -> Any:
        tried.append(len(batch.rows))
        if len(batch.rows) > most:
            raise RuntimeError(METAL)
        return real(model, batch, objective)

    monkeypatch.setattr(gradient, "microbatch_loss", loss)
    return tried


@pytest.mark.parametrize("policy", [nanochat_policy, llama_policy])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_gradient_is_that_of_the_unharmed_step(
    policy: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy().model
    batches = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 9, has_reference=True)
    for batch in batches:
        batch.ref_logprobs = batch.old_logprobs - 0.1
    expected, unharmed = accumulate(model, batches, OBJECTIVE)
    tried = few_rows(monkeypatch, most)
    limit = RowLimit()
    gradients, result = accumulate(model, batches, OBJECTIVE, limit=limit)
    assert max(tried) > most
    assert limit.rows is not None and limit.rows <= max(tried) // 2
    assert largest_difference(expected, gradients) < 1e-6
    assert result.loss == pytest.approx(unharmed.loss, rel=1e-5)
    assert result.kl == pytest.approx(unharmed.kl, rel=1e-5)
    assert result.clip_ratio == unharmed.clip_ratio
    tried.clear()
    accumulate(model, batches, OBJECTIVE, limit=limit)  # it is remembered
    assert max(tried) <= limit.rows


def test_one_sequence_that_does_not_fit_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch, 0)
    batches = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 9, has_reference=False)
    with pytest.raises(
        TrainingError, match=r"^Unable to allocate memory for a single sequence: .metal::malloc"
    ) as error:
        accumulate(nanochat_policy().model, batches, objective_of("dapo", 1.0, 0.2, 0.2, 0.0))
    assert "max_new_tokens" in error.value.hint


class Rows:
    """Work of so many rows."""

    def __init__(self, count: int) -> None:
        self.rows = list(range(count))

    def in_rows(self, most: int | None) -> "list[Rows]":
        most = most or len(self.rows)
        return [Rows(len(self.rows[start : start + most])) for start in range(0, len(self.rows), most)]


def attempts(count: int, *fails: int, limit: RowLimit) -> list[int]:
    """The rows of each attempt at this work; those numbered `fails` (from 1) fail."""
    tried: list[int] = []

    def compute(work: Rows) -> None:
        tried.append(len(work.rows))
        if len(tried) in fails:
            raise RuntimeError(METAL)

    list(with_recovery(Rows(count), compute, limit))
    return tried


def test_parts_as_large_as_the_one_that_failed_are_not_tried() -> None:
    assert attempts(8, 1, 2, limit=RowLimit()) == [8, 4, 2, 2, 2, 2]
    assert attempts(8, limit=RowLimit(3)) == [3, 3, 2]


@pytest.mark.parametrize("count", range(2, 33))
def test_divided_work_consists_of_the_parts_of_the_lower_limit(count: int) -> None:
    """So that it gives the same bits as under that limit from the start."""
    limit = RowLimit()
    while limit.rows != 1:
        divided = attempts(count, 1, limit=limit)[1:]
        assert divided == attempts(count, limit=RowLimit(limit.rows)), limit.rows


def test_a_single_row_is_tried_once_more() -> None:
    """Memory may have been short for a moment."""
    limit = RowLimit()
    assert attempts(1, 1, limit=limit) == [1, 1]
    assert attempts(2, 1, 2, 4, limit=limit) == [2, 1, 1, 1, 1]
    with pytest.raises(TrainingError, match="for a single sequence"):
        attempts(1, 1, 2, limit=limit)


def test_a_driver_that_refuses_the_process_asks_for_a_new_one_with_smaller_buffers() -> None:
    limit = RowLimit()
    with pytest.raises(Restart) as error:
        limit.answer(RuntimeError(TEXTS["refused"]), 8)
    assert error.value.environment == SMALL_BUFFERS
    assert limit.rows is None
    with pytest.raises(Restart) as error:
        for _ in range(2):
            limit.answer(RuntimeError(TEXTS["resource limit"]), 8)
    assert error.value.environment == {}


def test_a_gradient_after_a_failure_has_the_bits_of_the_lower_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows of one microbatch, of which four did not fit: parts of 2, 2, 2 and 1, not 2, 2, 1 and 2."""
    batch = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 9, has_reference=True)[0]
    batch.ref_logprobs = batch.old_logprobs - 0.1
    seven = batch.part(0, 7)
    assert len(seven.rows) == 7
    model = nanochat_policy().model
    expected, _ = accumulate(model, [seven], OBJECTIVE, limit=RowLimit(2))
    limit = RowLimit(4)
    few_rows(monkeypatch, 2)
    found, _ = accumulate(model, [seven], OBJECTIVE, limit=limit)
    assert limit.rows == 2
    assert largest_difference(expected, found) == 0.0


def test_another_error_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(gradient, "microbatch_loss", loss)
    batches = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 9, has_reference=False)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        accumulate(nanochat_policy().model, batches, OBJECTIVE)


PROMPTS = [[5, 6, 7], [8, 9], [1, 2, 3, 4, 5, 6]]


def sampled(limit: RowLimit | None = None, progress: Any = None) -> list[list[int]]:
    mx.random.seed(3)
    rollouts = generate(
        nanochat_policy(),
        PROMPTS,
        4,
        Sampling(max_new_tokens=12, temperature=1.0),
        progress or (lambda *_: None),
        limit=limit,
    )
    return [one.token_ids for group in rollouts for one in group]


@pytest.mark.parametrize("rows", [1, 2, 5, 11])
def test_completions_do_not_depend_on_what_is_sampled_at_once(rows: int) -> None:
    assert sampled(RowLimit(rows)) == sampled()


def test_rollouts_that_ran_out_of_memory_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory fails in the middle of a batch, after some tokens were sampled."""
    whole = sampled()
    real, calls = decode.draw, []

    def draw(logits: mx.array, *rest: Any) -> Any:
        calls.append(len(logits))
        if len(logits) > 3 and len(calls) % 4 == 0:
            raise RuntimeError("[malloc] Unable to allocate 1 bytes.")
        return real(logits, *rest)

    monkeypatch.setattr(decode, "draw", draw)
    limit, shown = RowLimit(), []
    assert sampled(limit, lambda *progress: shown.append(progress)) == whole
    assert limit.rows is not None and limit.rows <= 6
    assert shown[-1] == (12, 12, sum(map(len, whole)))


def test_a_run_goes_on_with_less_at_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SHORT, "max_steps": 2, "kl_coeff": 0.1}
    whole = small(tmp_path, run_name="whole", **settings)
    train(whole)
    few_rows(monkeypatch, 4)
    seen: list[str] = []
    harmed = small(tmp_path, run_name="harmed", **settings)
    train(harmed, lambda event: seen.append(event.text) if isinstance(event, events.Notice) else None)
    assert seen == [
        "out of memory in the update: at most 4 completions at once, with the same result. "
        "`batch_size = 1` with more `gradient_accumulation_steps` needs less"
    ]
    for a, b in zip(lines(whole.run_dir), lines(harmed.run_dir), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4, abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
