"""The reward `math_verify`: without its package a line that installs it, with it equal expressions."""

import sys
from typing import Any

import pytest

from grpo_cli.errors import RewardError
from grpo_cli.rewards.math_equivalence import math_verify
from grpo_cli.rewards.table import load_rewards


def test_without_its_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    [(name, function)] = load_rewards(["math_verify"])  # nothing is imported yet
    assert name == "math_verify"
    with pytest.raises(RewardError, match="needs the package math-verify") as raised:
        function(["q"], ["1"], ["1"])
    assert "pip install 'math-verify" in raised.value.hint


@pytest.mark.parametrize(
    ("completion", "gold", "value"),
    [
        (r"so \boxed{\frac{\sqrt{2}}{2}}", r"1/\sqrt{2}", 1.0),
        (r"<answer>\frac{\sqrt{2}}{2}</answer>", r"\frac{1}{\sqrt{2}}", 1.0),
        (r"<answer>$x^2 + 2x + 1$</answer>", "(x+1)^2", 1.0),
        (r"\boxed{\{1, 2\}}", r"\{2, 1\}", 1.0),
        ("The answer is 1/2.", "0.5", 1.0),
        (r"\boxed{2}", r"\sqrt{2}", 0.0),
        ("nothing", "1", 0.0),
        (r"<answer>1</answer> \boxed{2}", "2", 0.0),
    ],
)
def test_equal_expressions(completion: Any, gold: str, value: float) -> None:
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")
    assert math_verify(["q"], [completion], [gold]) == [value]
