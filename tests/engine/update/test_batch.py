"""Microbatches: the completions that are left out, and the weights of tokens."""

import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine.update.batch import make_microbatches
from tests.support.update_groups import step_groups


def test_completions_without_advantage_are_left_out_only_without_a_reference() -> None:
    without = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 4, has_reference=False)
    assert sum(batch.targets.shape[0] for batch in without) == 5
    assert sum(batch.token_count for batch in without) == 3 + 1 + 2 + 4 + 2
    assert without[0].weights[0, 0].item() == pytest.approx(1 / 19)  # of all 19 tokens of the step
    with_reference = make_microbatches(step_groups(), LOSS_TYPES["dapo"], 6, 4, has_reference=True)
    assert sum(batch.targets.shape[0] for batch in with_reference) == 9
