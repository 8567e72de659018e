"""The built-in rewards on hand-scored completions, in TRL's form and as plain texts."""

import time

import pytest

from grpo_cli.rewards.table import REWARDS

# math_verify has a test of its own, environment reads no text, and judge needs a model.
WITHOUT_PACKAGES = [name for name in REWARDS if name not in ("math_verify", "environment", "judge")]

PERFECT = "<reasoning>\n9 + 9 = 18\n</reasoning>\n<answer>\n18\n</answer>\n"
TIGHT = "<reasoning>9 + 9 = 18</reasoning><answer>18</answer>"


def reward(name: str, text: str, answer: str = "18") -> float:
    """The reward of one completion in TRL's form."""
    prompts = [[{"role": "user", "content": "9 + 9?"}]]
    completions = [[{"role": "assistant", "content": text}]]
    [value] = REWARDS[name](prompts=prompts, completions=completions, answer=[answer], level=[1])
    return float(value)


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        (PERFECT, "18", 2.0),
        ("<answer>1,000</answer>", "1000", 2.0),
        ("<answer>$18</answer>", "18", 2.0),
        ("<answer>18</answer>", "18.0", 2.0),
        ("<answer>-3</answer>", "-3", 2.0),
        ("<answer>3</answer>", "-3", 0.0),
        ("<answer>18", "18", 0.0),
        ("18", "18", 0.0),
    ],
)
def test_correctness(text: str, answer: str, value: float) -> None:
    assert reward("correctness", text, answer) == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("18", 0.5),
        ("-3", 0.5),
        ("99", 0.5),
        ("18.0", 0.0),
        ("$18", 0.0),
        ("1,000", 0.0),
        ("", 0.0),
        ("x", 0.0),
    ],
)
def test_int_wants_bare_digits_right_or_wrong(answer: str, value: float) -> None:
    assert reward("int", f"<answer>{answer}</answer>") == value


@pytest.mark.parametrize(
    ("text", "strict", "soft", "xml"),
    [
        (PERFECT, 0.5, 0.5, 0.5),
        (TIGHT, 0.5, 0.5, 0.5),
        (f"Sure! {TIGHT}", 0.0, 0.5, 0.5),
        (f"{TIGHT} ok", 0.0, 0.5, 0.498),  # two characters after </answer>
        (f"{TIGHT}<answer>2</answer>", 0.0, 0.5, 0.482),  # eighteen
        ("<reasoning>a</reasoning> so <answer>18</answer>", 0.0, 0.0, 0.5),
        ("<answer>18</answer><reasoning>a</reasoning>", 0.0, 0.0, 0.476),  # twenty-four
        ("<reasoning>a</reasoning>", 0.0, 0.0, 0.25),
        ("<answer>18</answer>", 0.0, 0.0, 0.25),
        ("<reasoning>a</reasoning><answer>18", 0.0, 0.0, 0.25),
        ("</answer>abc", 0.0, 0.0, -0.003),
        ("</reasoning><reasoning>", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_formats(text: str, strict: float, soft: float, xml: float) -> None:
    assert reward("strict_format", text) == strict
    assert reward("soft_format", text) == soft
    assert reward("xmlcount", text) == pytest.approx(xml, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("5 - 3 = 2.", "2", 1.0),
        ("It is $1,000.", "1000", 1.0),
        ("18.0", "18", 1.0),
        ("-3", "-3", 1.0),
        ("10-3", "-3", 0.0),
        ("none", "3", 0.0),
        ("Paris 3", "Paris", 0.0),
    ],
)
def test_last_number(text: str, answer: str, value: float) -> None:
    assert reward("last_number", text, answer) == value


@pytest.mark.parametrize("name", WITHOUT_PACKAGES)
def test_one_value_for_each_completion_each_with_its_own_answer(name: str) -> None:
    texts = [TIGHT, TIGHT.replace("<answer>18", "<answer>19"), "nothing"]
    expected = {
        "correctness": [0.0, 2.0, 0.0],
        "int": [0.5, 0.5, 0.0],
        "strict_format": [0.5, 0.5, 0.0],
        "soft_format": [0.5, 0.5, 0.0],
        "xmlcount": [0.5, 0.5, 0.0],
        "last_number": [0.0, 1.0, 0.0],
        "nanochat_gsm8k": [0.0, 0.0, 0.0],
    }
    assert REWARDS[name](["p"] * 3, texts, ["7", "19", "7"]) == expected[name]


@pytest.mark.parametrize("name", WITHOUT_PACKAGES)
@pytest.mark.parametrize(
    "part",
    ["<reasoning>", "</reasoning>", "</reasoning> ", "<answer>", "</answer>", " ", "1-", "#### ", "#### 1,"],
)
def test_hostile_completions_take_linear_time(name: str, part: str) -> None:
    text = "<reasoning></reasoning>" + part * (200_000 // len(part))
    start = time.process_time()  # of this process alone: the machine may be busy
    reward(name, text)
    assert time.process_time() - start < 2.0


def test_the_environments_reward_is_passed_on() -> None:
    texts = ["a", "b", "c"]
    found = REWARDS["environment"](["p"] * 3, texts, ["", "", ""], environment_reward=[1.0, None, 0.5])
    assert found == [1.0, None, 0.5]
    assert REWARDS["environment"](["p"] * 3, texts, ["", "", ""]) == [None, None, None]
