"""Every cure that an error prints, applied: the error is gone. A new hint needs a scenario, or a reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cures import convert, data, models, runs
from tests.cures.applied import Steps, apply, places_with_hints
from tests.cures.where import NOT_APPLIED, WHERE

SCENARIOS: dict[str, Callable[[], Steps]] = {
    name: scenario
    for module in (data, models, convert, runs)
    for name, scenario in vars(module).items()
    if getattr(scenario, "__annotations__", None) == {"return": Steps}
    and scenario.__module__ == module.__name__
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_cure_cures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
    assert apply(SCENARIOS[name]) == WHERE[name]


def test_every_hint_has_a_scenario_or_a_reason() -> None:
    places = places_with_hints()
    told = {place for place in places for known in NOT_APPLIED if place.startswith(known)}
    assert sorted(places - told - set(WHERE.values())) == []
    assert sorted(told & set(WHERE.values())) == []  # a reason that has become untrue
    assert [known for known in NOT_APPLIED if not any(place.startswith(known) for place in places)] == []
    assert WHERE.keys() == SCENARIOS.keys()
