r"""The questions to a judge model, and the scores read from its answers: text only, without a model.

    question = asked("score", "", "What is 9 + 9?", "18", ["It is 18."])
    read_score("Both sums agree.\nScore: 8")                →  0.8
    read_ranking("1: 8\n2: 3.5", count=2)                   →  [0.8, 0.35]

`score` asks about one completion at a time. `rank` shows all completions of a prompt in one question and asks
for a number for each, relative to the others, as RULER does (OpenPipe ART): a judge tells better from worse
more reliably than it gives points. Departs from RULER: numbers from 0 to 10 on lines of their own, not JSON,
which small models write poorly.

An answer without a usable number gives None: the reward does not apply.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

JUDGE_UNREAD = "judge_unread_fraction"  # in the log: share of answers without a usable number
MOST = 10.0  # the highest number; rewards are fractions of it

SCORE_PROMPT = """\
Judge the answer to this task. It is good if it is right, complete and does what the task asks.

Task:
{prompt}

Answer:
{completion}

Give your reason in one sentence. Then write, on a line of its own, `Score: ` and a number from 0 (worthless)
to 10 (perfect)."""

RANK_PROMPT = """\
Compare the answers to this task with one another. An answer is good if it is right, complete and does what
the task asks.

Task:
{prompt}

{completions}

Give each answer points from 0 (worthless) to 10 (perfect), so that a better answer has more points. Write one
line for each answer: its number, a colon, its points. Write nothing else."""

FIELDS = {"score": "{completion}", "rank": "{completions}"}  # what a template of each mode must have
FIELD = re.compile(r"\{(prompt|completion|completions|answer)\}")
NUMBER = r"(-?\d+(?:\.\d+)?)"
SCORE = re.compile(rf"\bscore\b[^\n\d:=]{{0,20}}(?:\([^)\n]{{0,20}}\))?[^\n\d:=]{{0,9}}[:=][^\d-]{{0,9}}"
                   rf"{NUMBER}(?:\s{{0,3}}/\s{{0,3}}(\d+))?", re.IGNORECASE)  # fmt: skip
BARE = re.compile(rf"\W{{0,9}}{NUMBER}(?:\s{{0,3}}/\s{{0,3}}(\d+))?\W{{0,9}}")
LINE = re.compile(rf"^[^\w\n]{{0,9}}(?:[A-Za-z]+ )?(\d{{1,4}})[^\w\n]{{0,9}}[:=][^\w\n-]{{0,9}}{NUMBER}"
                  r"(?:\s{0,3}/\s{0,3}(\d+))?[^\w\n]{0,9}$", re.MULTILINE)  # fmt: skip
THOUGHT = "</think>"  # a reasoning model's answer follows it


def asked(mode: str, template: str, prompt: str, answer: str, completions: Sequence[str]) -> str:
    """The question about completions of one prompt. `template`: the user's; empty: that of the mode."""
    listed = "\n\n".join(f"Answer {number}:\n{text}" for number, text in enumerate(completions, 1))
    values = {"prompt": prompt, "completion": completions[0], "completions": listed, "answer": answer}
    # In one pass: a completion that contains `{answer}` must not be told it.
    return FIELD.sub(
        lambda match: values[match[1]], template or {"score": SCORE_PROMPT, "rank": RANK_PROMPT}[mode]
    )


def read_score(text: str) -> float | None:
    """The last `Score: N` or `Score: N/M` of a judge's answer, or its only number, as 0 to 1."""
    said = text.rpartition(THOUGHT)[2].strip()
    found = list(SCORE.finditer(said)) or [match for match in [BARE.fullmatch(said)] if match]
    return fraction(found[-1][1], found[-1][2]) if found else None


def read_ranking(text: str, count: int) -> list[float | None]:
    """The number on each completion's line (`2: 7`), as 0 to 1; None for those without one."""
    scores: list[float | None] = [None] * count
    for match in LINE.finditer(text.rpartition(THOUGHT)[2]):
        if 1 <= int(match[1]) <= count:
            scores[int(match[1]) - 1] = fraction(match[2], match[3])
    return scores


def fraction(number: str, most: str | None) -> float | None:
    """A number as a share of the highest possible one; None beyond it."""
    highest = float(most) if most else MOST
    return float(number) / highest if highest and 0.0 <= float(number) <= highest else None


def groups_of(keys: Iterable[object]) -> list[range]:
    """The runs of equal neighbours: the completions of one prompt stand together."""
    groups, start = [], 0
    for _, members in groupby(keys):
        stop = start + len(list(members))
        groups.append(range(start, stop))
        start = stop
    return groups


def without_markers(text: str, markers: Iterable[str]) -> str:
    """The text with a space inside each of a tokenizer's markers, which are then ordinary text.

    Otherwise a completion that spells `<|im_end|>` could end its turn in the question and speak for the
    judge.
    """
    for marker in sorted(markers, key=len, reverse=True):
        text = text.replace(marker, f"{marker[0]} {marker[1:]}")
    return text
