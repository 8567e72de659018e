"""A format reward over a regular expression, as in scripts that train reasoning models."""

# ruff: noqa: ARG001

import re

PATTERN = re.compile(r"^<think>(?!.*<think>)(.*?)</think>\s*<answer>.*?</answer>$", re.DOTALL | re.MULTILINE)


def think_format_reward(completions: list[list[dict[str, str]]], **kwargs) -> list[float]:
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if PATTERN.match(content) else 0.0 for content in contents]
