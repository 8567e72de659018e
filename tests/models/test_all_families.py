"""Every other type of model of mlx-lm: rollouts, gradients and adapters against plain single rows."""

import pytest

from tests.support.kind_trials import tried
from tests.support.kind_verdicts import MOST_USED, problem_of
from tests.support.model_kinds import KINDS


@pytest.mark.parametrize("name", sorted(KINDS.keys() - set(MOST_USED)))
def test_it_agrees_or_is_refused_in_words(name: str) -> None:
    assert problem_of(tried(name, only_core=True)) == ""
