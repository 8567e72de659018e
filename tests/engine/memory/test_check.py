"""The check of memory before a run: its notices, its error, and adapters as a way out."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine import events, setup
from grpo_cli.engine.memory.check import check_memory, needs_of, needs_with
from grpo_cli.engine.memory.estimate import (
    Shape,
)
from grpo_cli.errors import TrainingError
from tests.support.small_runs import small


def told(tmp_path: Path, share: float, **changes: Any) -> list[str]:
    """The notices of a run with this share of the memory that it needs."""
    seen: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice):
            seen.append(event.text)

    run = setup.prepare(small(tmp_path, **changes), listen)
    needs = needs_of(run)
    assert needs is not None
    check_memory(run, int(share * needs.peak))
    return seen


def test_enough_memory_is_not_worth_a_word(tmp_path: Path) -> None:
    assert told(tmp_path, 1.01) == []
    assert told(tmp_path, 100.0) == []


def test_too_little_says_which_keys_to_change_to_what(tmp_path: Path) -> None:
    (text,) = told(tmp_path, 0.5, batch_size=8, num_generations=8, max_new_tokens=256)
    assert text.startswith("this run needs about ")
    assert "activations and logits" in text
    assert "set `batch_size = 1`, `gradient_accumulation_steps = 8`" in text


def test_a_single_completion_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^Unable to allocate memory: a single completion needs about"
    ) as error:
        told(tmp_path, 0.01, batch_size=4)
    assert "`lora_rank = 16`" in error.value.hint


def test_without_a_budget_or_a_shape_nothing_is_said(tmp_path: Path) -> None:
    run = setup.prepare(small(tmp_path))
    check_memory(run, None)
    run.policy.config = {"model_type": "unusual"}
    check_memory(run, 1)


def test_adapters_as_a_way_out_are_counted(tmp_path: Path) -> None:
    """LoRA of rank 16 has far fewer trained numbers: its needs are below those of all weights."""
    run = setup.prepare(small(tmp_path))
    shape = Shape.of(run.policy.config)
    assert shape is not None
    full = needs_with(run, shape, run.config)
    lora = needs_with(run, shape, run.config.model_copy(update={"lora_rank": 16}))
    assert lora.gradients < 0.5 * full.gradients
    assert lora.optimizer < 0.5 * full.optimizer
    exact = needs_of(setup.prepare(small(tmp_path / "lora", lora_rank=16)))
    assert exact is not None
    assert lora.optimizer == pytest.approx(exact.optimizer, rel=0.1)
    assert lora.peak == pytest.approx(exact.peak, rel=0.1)
