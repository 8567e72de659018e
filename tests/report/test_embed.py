"""JSON and scripts inside a page: nothing in a text ends the script element, and the policy names ours."""

import json

import pytest

from grpo_cli.report.embed import content_policy, json_for_html
from tests.support.report_runs import HOSTILE


@pytest.mark.parametrize("text", HOSTILE)
def test_json_loads_to_the_same_text_and_has_no_special_character(text: str) -> None:
    written = json_for_html({"text": text})
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == {"text": text.replace("\ud800", "\ufffd")}


def test_infinite_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_for_html([float("nan")])


def test_the_policy_allows_these_scripts_and_styles_only() -> None:
    # sha256 of "a" and "b" in base64
    assert content_policy(["a"], ["b"]) == (
        "default-src 'none'; script-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='; "
        "style-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='; base-uri 'none'; form-action 'none'"
    )
