"""A table of (completion, right answer, is it right?) in the shapes that models write.

Each line is read twice where it has no tag of its own: as it stands, and inside `<answer>…</answer>`. Lines
under `BARE` are long texts, which nobody writes into a tag, and are read as they stand.
"""

import time

import pytest

from grpo_cli.rewards.answers import is_right

RIGHT, WRONG = True, False

ALIKE = [
    # plain numbers, units, currency, per cent
    ("18", "18", RIGHT),
    ("18.", "18", RIGHT),
    ("18.0", "18", RIGHT),
    ("18", "18.00", RIGHT),
    ("19", "18", WRONG),
    ("18 dollars", "18", RIGHT),
    ("18 dollars.", "18", RIGHT),
    ("$18", "18", RIGHT),
    ("$ 18", "18", RIGHT),
    ("US$18", "18", RIGHT),
    ("18 USD", "18", RIGHT),
    ("USD 18", "18", RIGHT),
    ("18€", "18", RIGHT),
    ("€18,50", "18.5", RIGHT),
    ("£18.50", "18.5", RIGHT),
    ("₹500", "500", RIGHT),
    ("Rs. 500", "500", RIGHT),
    (r"\$18", "18", RIGHT),
    (r"$18$", "18", RIGHT),
    (r"\(18\)", "18", RIGHT),
    (r"\[ 18 \]", "18", RIGHT),
    ("18", "$18", RIGHT),
    ("18", "18 dollars", RIGHT),
    ("18 apples", "18", RIGHT),
    ("18 apples", "19", WRONG),
    ("18kg", "18", RIGHT),
    ("18 km/h", "18", RIGHT),
    ("18 m^2", "18", RIGHT),
    ("18 m^2", "2", WRONG),
    ("18 cm²", "18", RIGHT),
    ("18 m/s^2", "18", RIGHT),
    (r"18 \text{ cm}^2", "18", RIGHT),
    (r"18\,\mathrm{cm}", "18", RIGHT),
    ("18°", "18", RIGHT),
    (r"18^\circ", "18", RIGHT),
    ("50%", "50", RIGHT),
    ("50 %", "50", RIGHT),
    (r"50\%", "50", RIGHT),
    ("50 percent", "50", RIGHT),
    ("50", "50%", RIGHT),
    ("0.5", "50%", RIGHT),
    ("50%", "0.5", WRONG),  # 50 % is 50, as in GSM8K's answers
    ("the 18th", "18", RIGHT),
    # shapes around a number
    ("x = 18", "18", RIGHT),
    ("x=18", "18", RIGHT),
    ("x = -18", "-18", RIGHT),
    ("x = -18", "18", WRONG),
    ("**18**", "18", RIGHT),
    ("__18__", "18", RIGHT),
    ("*18*", "18", RIGHT),
    ("`18`", "18", RIGHT),
    ("(5)", "5", RIGHT),
    ("[5]", "5", RIGHT),
    ('"5"', "5", RIGHT),
    ("5!", "5", RIGHT),
    ("= 18", "18", RIGHT),
    ("≈ 18", "18", RIGHT),
    ("9 + 9 = 18", "18", RIGHT),
    ("9 + 9 = 18", "9", WRONG),
    ("9 * 2 = **18**", "18", RIGHT),
    ("The answer is 18", "18", RIGHT),
    ("The answer is 18.", "18", RIGHT),
    ("The answer is: 18", "18", RIGHT),
    ("The final answer is $18.", "18", RIGHT),
    ("Answer: 18", "18", RIGHT),
    ("**Answer:** 18", "18", RIGHT),
    ("#### 18", "18", RIGHT),
    ("She has 18 apples left.", "18", RIGHT),
    ("She has 18 apples left.", "17", WRONG),
    ("7 is not 8", "7", WRONG),
    # signs
    ("-3", "-3", RIGHT),
    ("−3", "-3", RIGHT),
    ("–3", "-3", RIGHT),
    ("minus 3", "-3", RIGHT),
    ("negative 3", "-3", RIGHT),
    ("-$3", "-3", RIGHT),
    ("$-3", "-3", RIGHT),
    ("3", "-3", WRONG),
    ("-3", "3", WRONG),
    ("+3", "3", RIGHT),
    ("-0", "0", RIGHT),
    # thousands and decimals
    ("1,000", "1000", RIGHT),
    ("1000", "1,000", RIGHT),
    ("1,000,000", "1000000", RIGHT),
    ("1,234.5", "1234.5", RIGHT),
    ("1.234,5", "1234.5", RIGHT),
    ("1.000,5", "1000.5", RIGHT),
    ("1.000.000", "1000000", RIGHT),
    ("1 000", "1000", RIGHT),
    ("1\u00a0000", "1000", RIGHT),
    ("1\u202f234\u202f567", "1234567", RIGHT),
    ("1 234,5", "1234.5", RIGHT),
    ("1'000", "1000", RIGHT),
    ("1’000.50", "1000.5", RIGHT),
    ("1,00,000", "100000", RIGHT),  # a lakh
    (r"1{,}000", "1000", RIGHT),
    (r"1\,000", "1000", RIGHT),
    ("1.000", "1", RIGHT),  # one point is a decimal point …
    ("1.000", "1000", WRONG),
    ("1,000", "1", WRONG),  # … and one comma before three digits a thousands comma
    ("3,5", "3.5", RIGHT),
    ("0,500", "0.5", RIGHT),
    ("10,00 €", "10", RIGHT),
    ("1.2.3", "3", WRONG),
    (".5", "0.5", RIGHT),
    ("0.1", "0.1", RIGHT),
    ("0.30000000000000004", "0.3", WRONG),
    ("9007199254740993", "9007199254740992", WRONG),  # equal as floats
    ("2e3", "2000", RIGHT),
    ("1.5 × 10^6", "1500000", RIGHT),
    (r"1.5 \times 10^{6}", "1500000", RIGHT),
    ("1.5 x 10^-2", "0.015", RIGHT),
    ("2 million", "2000000", RIGHT),
    ("2.5 billion dollars", "2500000000", RIGHT),
    # fractions
    ("1/2", "0.5", RIGHT),
    ("1/2", "1/2", RIGHT),
    ("2/4", "1/2", RIGHT),
    ("1/2", "2", WRONG),
    ("1/2", "1", WRONG),
    ("It costs 1/2", "2", WRONG),
    ("1 / 2", "0.5", RIGHT),
    ("-1/2", "-0.5", RIGHT),
    ("3 1/2", "3.5", RIGHT),
    ("½", "0.5", RIGHT),
    ("3½", "3.5", RIGHT),
    ("1⁄2", "0.5", RIGHT),
    (r"\frac{1}{2}", "0.5", RIGHT),
    (r"\frac{1}{2}", r"\dfrac{1}{2}", RIGHT),
    (r"\frac12", "1/2", RIGHT),
    (r"-\frac{1}{2}", "-0.5", RIGHT),
    (r"3\frac{1}{2}", "3.5", RIGHT),
    (r"\frac{1}{2}", "2", WRONG),
    (r"\frac{x}{2}", "2", WRONG),
    ("x/2", "2", WRONG),
    ("1/0", "0", WRONG),
    ("1/2/2024", "2024", WRONG),
    # LaTeX
    (r"\boxed{42}", "42", RIGHT),
    (r"So the result is \boxed{42}", "42", RIGHT),
    (r"So the result is \boxed{42}.", "42", RIGHT),
    (r"$\boxed{42}$", "42", RIGHT),
    (r"\boxed{\$42}", "42", RIGHT),
    (r"\boxed{42 \text{ apples}}", "42", RIGHT),
    (r"\boxed{x = 42}", "42", RIGHT),
    (r"\boxed{\frac{1}{2}}", "0.5", RIGHT),
    (r"So \boxed{\frac{1}{2}}", "2", WRONG),
    (r"\boxed{1} no, \boxed{2}", "2", RIGHT),
    (r"\boxed{1} no, \boxed{2}", "1", WRONG),
    (r"\boxed{42} as 2 \cdot 21 = 43", "42", RIGHT),
    (r"\fbox{42}", "42", RIGHT),
    (r"\boxed{\text{Paris}}", "Paris", RIGHT),
    (r"\boxed{\sqrt{2}}", "2", WRONG),
    (r"\boxed{B}", "B", RIGHT),
    (r"\boxed{(B)}", "B", RIGHT),
    (r"\boxed{42", "42", WRONG),  # cut off: it may have been about to say 420
    # what is no number
    ("√2", "2", WRONG),
    ("2π", "2", WRONG),
    (r"2\pi", "2", WRONG),
    ("2^3", "3", WRONG),
    ("2^3", "2", WRONG),
    ("10^6", "6", WRONG),
    ("x^2", "2", WRONG),
    ("x_1", "1", WRONG),
    ("3x", "3", WRONG),
    ("3:4", "4", WRONG),
    ("12:30", "30", WRONG),
    ("10-3", "3", WRONG),
    ("9 + 9", "9", WRONG),
    ("18-19", "19", WRONG),
    # more than one answer
    ("18 or 19", "18", WRONG),
    ("18 or 19", "19", WRONG),
    ("18 dollars or 19 dollars", "19", WRONG),
    ("The answer is 18 or 19.", "19", WRONG),
    ("either 18, or maybe 19", "19", WRONG),
    ("n = 18 or n = 19", "19", WRONG),
    ("17, 18, 19", "19", WRONG),
    ("17, 18 and 19", "19", WRONG),
    ("17; 18", "18", WRONG),
    ("17/18/19", "19", WRONG),
    ("1, 2, 3", "1, 2, 3", RIGHT),
    ("1,2,3", "1, 2, 3", RIGHT),
    ("(1, 2)", "(1, 2)", RIGHT),
    ("(3, 4)", "(3,4)", RIGHT),
    ("[1, 5)", "[1,5)", RIGHT),
    # letters
    ("B", "B", RIGHT),
    ("b", "B", RIGHT),
    ("(B)", "B", RIGHT),
    ("B.", "B", RIGHT),
    ("B)", "B", RIGHT),
    ("B", "(B)", RIGHT),
    ("**B**", "B", RIGHT),
    ("B. Paris", "B", RIGHT),
    ("B) Paris", "B", RIGHT),
    ("(B) Paris", "B", RIGHT),
    ("B: Paris", "B", RIGHT),
    ("Option B", "B", RIGHT),
    ("The answer is B", "B", RIGHT),
    ("The answer is B.", "B", RIGHT),
    ("The answer is (B) Paris.", "B", RIGHT),
    ("The correct answer is **B**", "B", RIGHT),
    ("The answer is B because A is too small.", "B", RIGHT),
    ("The answer is B because A is too small.", "A", WRONG),
    ("The answer is A", "A", RIGHT),
    ("The answer is a dog", "A", WRONG),
    ("The answer is A dog", "A", WRONG),
    ("I choose option C.", "C", RIGHT),
    ("The correct option is C", "C", RIGHT),
    ("A", "B", WRONG),
    ("A or B", "B", WRONG),
    ("A or B", "A", WRONG),
    ("A, B", "B", WRONG),
    ("The answer is A or B", "A", WRONG),
    ("A/B/C/D", "D", WRONG),
    ("Bob", "B", WRONG),
    ("I think so", "I", WRONG),
    # yes and no
    ("yes", "yes", RIGHT),
    ("Yes.", "yes", RIGHT),
    ("It is yes.", "yes", RIGHT),
    ("Yes, because it is.", "yes", RIGHT),
    ("Yes, there is no doubt.", "no", WRONG),
    ("The answer is no", "no", RIGHT),
    ("The answer is no.", "yes", WRONG),
    ("**No**", "no", RIGHT),
    ("True", "true", RIGHT),
    ("true", "yes", RIGHT),
    ("false", "True", WRONG),
    ("yes or no", "no", WRONG),
    ("yes or no", "yes", WRONG),
    ("yes/no", "yes", WRONG),
    ("yes no", "no", WRONG),
    ("There are no apples", "no", WRONG),
    ("I know", "no", WRONG),
    # plain text
    ("Paris", "Paris", RIGHT),
    (" Paris\n", "Paris", RIGHT),
    ("Paris.", "Paris", RIGHT),
    ("**Paris**", "Paris", RIGHT),
    ('"Paris"', "Paris", RIGHT),
    ("paris", "Paris", WRONG),
    ("The answer is Paris.", "Paris", RIGHT),
    ("The capital of France is Paris.", "Paris", RIGHT),
    ("It is not Paris", "Paris", WRONG),
    ("London or Paris", "Paris", WRONG),
    ("London, Paris", "Paris", WRONG),
    ("London", "Paris", WRONG),
    ("18", "Paris", WRONG),
    ("Paris 3", "Paris", WRONG),
    ("New York", "New  York", RIGHT),
    ("x + 1", "x+1", RIGHT),
    ("none", "18", WRONG),
    ("", "18", WRONG),
]

BARE = [
    ("9 + 9 = 18 as I checked 3 times.\nThe answer is 18.", "18", RIGHT),
    ("The answer is 18. I checked it 3 times.", "18", RIGHT),
    ("The answer is 17. No, wait: the answer is 18.", "18", RIGHT),
    ("The answer is 17. No, wait: the answer is 18.", "17", WRONG),
    ("Answer:\n\n18", "18", RIGHT),
    ("1. Two and two.\n2. Then four.\n\n**Final answer: 42**", "42", RIGHT),
    ("Step 1: 4\nStep 2: 8\n#### 8", "8", RIGHT),
    ("<answer>8</answer> no, 7", "7", WRONG),
    ("<answer>8</answer> no, 7", "8", RIGHT),
    ("<answer>5</answer> no, <answer>6</answer>", "6", RIGHT),
    ("<answer>5</answer> no, <answer>6", "5", RIGHT),
    ("<answer></answer> 18", "18", WRONG),
    ("<reasoning>3 + 4</reasoning><answer>7</answer>", "7", RIGHT),
    ("<answer>\nThe answer is \\boxed{7}.\n</answer>", "7", RIGHT),
    ("A says one, B says two.\nB", "B", RIGHT),
    ("Let me think. A is small, B is large.\n\nAnswer: B", "B", RIGHT),
    ("Option A is wrong. Option B is right.", "C", WRONG),
    ("A dog has four legs", "A", WRONG),
    ("I read it as yes or no. The answer is yes.", "yes", RIGHT),
    ("It has 3 parts.\nYes", "yes", RIGHT),
    ("in 2020, 18 000 people", "18000", RIGHT),
    ("After week 2, 18 remain.", "18", RIGHT),
]


@pytest.mark.parametrize(("completion", "gold", "right"), [*ALIKE, *BARE])
def test_what_is_right_as_it_stands(completion: str, gold: str, right: bool) -> None:
    assert is_right(completion, gold) is right


@pytest.mark.parametrize(("answer", "gold", "right"), ALIKE)
def test_the_same_inside_a_tag(answer: str, gold: str, right: bool) -> None:
    assert is_right(f"<reasoning>I see 7, 8 or 9.</reasoning>\n<answer>{answer}</answer>", gold) is right


def test_the_table_is_long_enough() -> None:
    assert len({(completion, gold) for completion, gold, _ in [*ALIKE, *BARE]}) >= 240


MILLION = 1_000_000
PARTS = [" ", "\n", "A or ", "18 or ", "yes or ", "1 / ", "10^ ", "minus ", "answer is "]
PARTS += r"""
<answer> </answer> 1, 1,111 1. - 1e1 9 $ 1' 1/ \frac \frac{ \frac1 \boxed{ \boxed{1} { \\ \text{ #### B. ( no
* ^ 1^ ×10^ 1million x= Paris ½ √ . ! _ (B) 0,0 1or""".split()  # noqa: SIM905


@pytest.mark.parametrize("gold", ["1", "B", "yes", "Paris"])
def test_hostile_texts_take_linear_time(gold: str) -> None:
    """No expression and no loop is quadratic: that would take a hundred times as long as is allowed."""
    for part in PARTS:
        text = part * (MILLION // 20 // max(1, len(part)))
        for completion in (text, f"<answer>{text}</answer>"):
            start = time.process_time()
            is_right(completion, gold)
            assert time.process_time() - start < 2.0, (part, completion[:20])


@pytest.mark.parametrize("digits", ["9" * MILLION, "1" + ",000" * 300_000, "9" * 401], ids=len)
def test_a_number_too_long_is_none_but_equals_itself(digits: str) -> None:
    assert is_right(digits, digits)
    assert not is_right(digits, "9")


def test_a_list_of_all_answers_is_no_answer() -> None:
    numbers = [str(number) for number in range(10, 30)]
    letters = ["A", "B", "C", "D"]
    for joint in (", ", " or ", " and ", "; ", "/", " / ", " | ", " & ", ","):
        assert not any(is_right(f"<answer>{joint.join(numbers)}</answer>", gold) for gold in numbers), joint
        assert not any(is_right(f"<answer>{joint.join(letters)}</answer>", gold) for gold in letters), joint
