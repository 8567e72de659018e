"""Every cure that an error prints is applied by a scenario of these files, or has a reason why not."""

import re
from pathlib import Path

from tests.support.cure_places import NOT_APPLIED, WHERE
from tests.support.cure_scenarios import places_with_hints


def test_every_hint_has_a_scenario_or_a_reason() -> None:
    places = places_with_hints()
    told = {place for place in places for known in NOT_APPLIED if place.startswith(known)}
    assert sorted(places - told - set(WHERE.values())) == []
    assert sorted(told & set(WHERE.values())) == []  # a reason that has become untrue
    assert [known for known in NOT_APPLIED if not any(place.startswith(known) for place in places)] == []


def test_every_scenario_has_its_place() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    found = [name for text in texts for name in re.findall(r"^def (\w+)\(\) -> Steps:", text, re.MULTILINE)]
    assert sorted(found) == sorted(WHERE)
