r"""The reward `math_verify`: mathematical equality with the right answer, by the package math-verify.

    math_verify(…, completions=[r"so \boxed{\frac{\sqrt{2}}{2}}"], answer=[r"1/\sqrt{2}"])  →  [1.0]

For answers beyond plain numbers: roots, intervals, sets, equations, expressions in LaTeX. The package is
optional (`pip install 'grpo-cli[math]'`) and is imported on the first call.
"""

# ruff: noqa: ARG001 - one signature for all rewards, whether or not they use each of its lists

from collections.abc import Callable
from typing import Any

from grpo_cli.errors import RewardError
from grpo_cli.rewards.answers import extract_answer
from grpo_cli.rewards.builtin import completion_text

LONGEST = 2000  # maximum characters read, counted from the end of the text
SECONDS = 3  # time limit for parsing or comparing; beyond it the answer counts as wrong


def math_verify(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1.0 if the answer, tagged, boxed or not, is mathematically equal; needs the package math-verify."""
    parse, verify = library()
    texts = [completion_text(completion) for completion in completions]
    return [
        1.0 if is_equal(text, gold, parse, verify) else 0.0 for text, gold in zip(texts, answer, strict=True)
    ]


def library() -> tuple[Callable[..., Any], Callable[..., bool]]:
    """math-verify's two functions. Raises RewardError with the installation command."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise RewardError(
            f"The reward `math_verify` needs the package math-verify: {error}",
            "install it: `uv pip install 'math-verify[antlr4_13_2]'`, or with grpo: `.[math]`",
        ) from error
    return parse, verify


def is_equal(text: str, gold: str, parse: Callable[..., Any], verify: Callable[..., bool]) -> bool:
    """True if the answer in a text is mathematically equal to the right one."""
    tagged = extract_answer(text)
    said = (text if tagged is None else tagged)[-LONGEST:]
    found = parse(said, parsing_timeout=SECONDS)
    if tagged is not None and not any(mark in tagged for mark in ("$", "\\boxed", "\\(", "\\[")):
        found = parse(f"${said}$", parsing_timeout=SECONDS) or found  # bare LaTeX
    right = parse(f"${gold.strip('$')}$", parsing_timeout=SECONDS)
    return bool(found and right) and verify(right, found, timeout_seconds=SECONDS)
