"""Training texts of the embedded model: an author who adds in two styles.

    careful   <reasoning>7+8=15, 4+3+1=8, 2+5=7</reasoning><answer>785</answer>
    hasty     <reasoning>easy</reasoning><answer>779</answer>

The careful style works the columns out from the right and carries; it is right. The hasty one
answers at once and never carries: a column that passes nine becomes a nine, so it is right only
if no column does. (Its last digit instead of the nine would be far harder to learn: one digit alone
says nothing about the last digit of a sum.) The author is mostly careful when the first number
begins with 8 or 9 and mostly hasty otherwise: a policy that imitates him has the better style within
reach on every problem, and a reward can teach it to reason.
"""

import random

from grpo_cli.config.keys import XML_SYSTEM_PROMPT
from grpo_cli.data import arithmetic

CAREFUL_FROM_DIGIT = 8  # first numbers that begin with this digit or a higher one look hard
CAREFUL_SHARE = {True: 0.9, False: 0.2}  # by whether the problem looks hard
DIFFICULTY_WEIGHTS = {1: 15, 2: 25, 3: 60}
SYSTEM_PROMPTS = ("", XML_SYSTEM_PROMPT)


def columns(a: int, b: int) -> list[tuple[int, int]]:
    """The digits of a and b in each column, from the right; 0 after the end of a number."""
    found = []
    while True:
        found.append((a % 10, b % 10))
        a, b = a // 10, b // 10
        if not a and not b:
            return found


def careful(a: int, b: int) -> str:
    """The completion that computes every column: `7+8=15, 4+3+1=8, 2+5=7` for 247 + 538."""
    steps, carry = [], 0
    for top, bottom in columns(a, b):
        total = top + bottom + carry
        steps.append(f"{top}+{bottom}{'+1' if carry else ''}={total}")
        carry = total // 10
    return completion(", ".join(steps), str(a + b))


def hasty(a: int, b: int) -> str:
    """The completion that answers at once, with 9 in every column but the first that exceeds it."""
    *lower, (top, bottom) = columns(a, b)
    digits = "".join(str(min(x + y, 9)) for x, y in lower)
    return completion("easy", f"{top + bottom}{digits[::-1]}")


def completion(reasoning: str, answer: str) -> str:
    """Reasoning and answer in the tags that the rewards expect."""
    return f"<reasoning>{reasoning}</reasoning><answer>{answer}</answer>"


def looks_hard(a: int) -> bool:
    """True if the author tends to be careful with a sum whose first number is `a`."""
    return int(str(a)[0]) >= CAREFUL_FROM_DIGIT


def solution(a: int, b: int, rng: random.Random) -> str:
    """The author's completion for a + b, in a randomly chosen style."""
    is_careful = rng.random() < CAREFUL_SHARE[looks_hard(a)]
    return careful(a, b) if is_careful else hasty(a, b)


def training_problem(rng: random.Random) -> tuple[int, int]:
    """A problem of one to three digits that is not in the test split."""
    (difficulty,) = rng.choices(list(DIFFICULTY_WEIGHTS), list(DIFFICULTY_WEIGHTS.values()))
    low, high = arithmetic.operand_range(difficulty)
    while True:
        a, b = rng.randint(low, high), rng.randint(low, high)
        if not arithmetic.is_test(a, b):
            return a, b


def question(a: int, b: int, system_prompt: str = "") -> str:
    """The user message, after the system message as in nanochat's chat format."""
    content = arithmetic.example(a, b).messages[0]["content"]
    return f"{system_prompt}\n\n{content}" if system_prompt else content
