"""Every cure that the doctor prints is applied by a scenario of these files, or has a reason why not."""

import re
from pathlib import Path

from tests.support.doctor_cure_places import NOT_APPLIED, WHERE
from tests.support.doctor_cures import places


def test_every_finding_has_a_scenario_or_a_reason() -> None:
    assert sorted(places()) == sorted({*WHERE.values(), *NOT_APPLIED})
    assert sorted(NOT_APPLIED.keys() & set(WHERE.values())) == []  # a reason that has become untrue


def test_every_scenario_has_its_place() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    found = [name for text in texts for name in re.findall(r"^def (\w+)\(\) -> Cure:", text, re.MULTILINE)]
    assert sorted(found) == sorted(WHERE)
