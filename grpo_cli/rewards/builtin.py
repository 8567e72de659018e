"""The built-in rewards: MLX-GRPO's five, `last_number` and `nanochat_gsm8k`.

All have TRL's signature, `(prompts, completions, answer, **columns) -> list[float]`, lists of one
item per completion. A completion is a list of one assistant message, or a plain text.

    correctness(prompts=[…], completions=[[{"role": "assistant", "content": "<answer>18</answer>"}]],
                answer=["18.0"])  →  [2.0]

Departures from MLX-GRPO: answers are compared as numbers, each with the answer of its own prompt; an
unclosed `<answer>` is no answer; strict_format wants every tag exactly once.
"""

# ruff: noqa: ARG001 - one signature for all rewards, whether or not they use each of its lists

import re
from typing import Any

from grpo_cli.errors import RewardError
from grpo_cli.rewards.answers import answers_match, extract_answer
from grpo_cli.rewards.numbers import read_last, read_whole

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
FROM_REASONING_TO_ANSWER = re.compile(r"</reasoning>\s*+<answer>")
WHOLE_NUMBER = re.compile(r"[-+]?\d+", re.ASCII)
TRAILING_PENALTY = 0.001  # per character after </answer>
MARKED_NUMBER = re.compile(r"#### (-?[0-9.,]+)")  # exactly one space, as in GSM8K's solutions


def completion_text(completion: Any) -> str:
    """The text of a completion in either of TRL's formats: of its last turn, if it has several."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def correctness(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """2.0 if the last `<answer>` is right, as in evaluation."""
    found = [extract_answer(completion_text(completion)) for completion in completions]
    return [2.0 if answers_match(got, gold) else 0.0 for got, gold in zip(found, answer, strict=True)]


def integer(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """0.5 if the last `<answer>` is an integer in plain digits, right or wrong."""
    found = [extract_answer(completion_text(completion)) for completion in completions]
    return [0.5 if got is not None and WHOLE_NUMBER.fullmatch(got) else 0.0 for got in found]


def strict_format(
    prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any
) -> list[float]:
    """0.5 if the text is exactly one reasoning block and one answer block, apart from whitespace."""
    return [0.5 if is_strict(completion_text(completion)) else 0.0 for completion in completions]


def soft_format(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """0.5 if a reasoning block is followed by an answer block, regardless of other text."""
    return [0.5 if is_soft(completion_text(completion)) else 0.0 for completion in completions]


def xmlcount(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """0.25 for each of the two pairs of tags, minus 0.001 for each character after `</answer>`."""
    return [xml_score(completion_text(completion)) for completion in completions]


def last_number_matches(
    prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any
) -> list[float]:
    """1.0 if the last number in the text equals the answer; 0.0 if the answer is not a number."""
    found = [read_last(completion_text(completion)) for completion in completions]
    golds = [read_whole(gold) for gold in answer]
    return [1.0 if got and gold and got.equals(gold) else 0.0 for got, gold in zip(found, golds, strict=True)]


def environment(
    prompts: list[Any],
    completions: list[Any],
    answer: list[str],
    environment_reward: list[float | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """The environment's own reward; None, so that it does not apply, without one."""
    return list(environment_reward or [None] * len(completions))


def judge(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """The score of the model named by `judge`, from 0 to 1; None for an answer without one.

    A stand-in until the engine has loaded that model. Raises RewardError.
    """
    raise RewardError(
        "Reward `judge` has no model", 'name one: `judge = "OWNER/NAME"`, or the folder of a model'
    )


def nanochat_gsm8k(
    prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any
) -> list[float]:
    """1.0 if the first number after `#### ` is spelled as the answer, commas aside: nanochat's reward.

    The spelling counts: `#### 18.` and `#### 18.0` are wrong for 18, and `#### $18` has no number. An answer
    that is not a number gives 0.0. Source: karpathy/nanochat, tasks/gsm8k.py.
    """
    found = [marked_number(completion_text(completion)) for completion in completions]
    golds = [marked_number(f"#### {gold}") for gold in answer]
    return [1.0 if got is not None and got == gold else 0.0 for got, gold in zip(found, golds, strict=True)]


def marked_number(text: str) -> str | None:
    """The first number after `#### `, without commas."""
    match = MARKED_NUMBER.search(text)
    return match[1].replace(",", "") if match else None


def is_strict(text: str) -> bool:
    """`<reasoning>…</reasoning> <answer>…</answer>` and nothing else, every tag once."""
    text = text.strip()
    return (
        text.startswith("<reasoning>")
        and text.endswith("</answer>")
        and all(text.count(tag) == 1 for tag in TAGS)
        and FROM_REASONING_TO_ANSWER.search(text) is not None
    )


def is_soft(text: str) -> bool:
    """`<reasoning>…</reasoning> <answer>…</answer>` somewhere in the text.

    Searched step by step: a single regular expression with two `.*?` takes quadratic time on a completion
    that repeats `<reasoning>`.
    """
    start = text.find("<reasoning>")
    if start < 0:
        return False
    middle = FROM_REASONING_TO_ANSWER.search(text, start + len("<reasoning>"))
    return middle is not None and text.find("</answer>", middle.end()) >= 0


def xml_score(text: str) -> float:
    """The xmlcount reward of one text. It can be negative, as in MLX-GRPO."""
    pairs = has_pair(text, "<reasoning>", "</reasoning>") + has_pair(text, "<answer>", "</answer>")
    trailing = text.partition("</answer>")[2].strip()
    return 0.25 * pairs - TRAILING_PENALTY * len(trailing)


def has_pair(text: str, opening: str, closing: str) -> bool:
    """True if the opening tag is followed by the closing one."""
    start = text.find(opening)
    return start >= 0 and text.find(closing, start + len(opening)) >= 0
