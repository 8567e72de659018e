"""Accuracy by math_verify where it is installed, None for a solution that cannot be parsed."""

# ruff: noqa: ARG001

import re

try:
    from math_verify import parse, verify
except ImportError:  # the plain comparison of scripts without it

    def parse(text, **kwargs):
        return re.findall(r"-?\d+", text)[-1:]

    def verify(gold, found, **kwargs):
        return gold == found


def accuracy_reward(completions, solution, log_extra=None, log_metric=None, **kwargs):
    rewards, golds = [], []
    for completion, sol in zip(completions, solution, strict=True):
        gold = parse(sol, parsing_timeout=None)
        golds.append(str(gold[0]) if gold else "[unparseable]")
        if not gold:
            rewards.append(None)
            continue
        found = parse(completion[0]["content"], parsing_timeout=None)
        rewards.append(float(bool(found) and verify(gold, found, timeout_seconds=None)))
    if log_extra:
        log_extra("gold_parsed", golds)
    if log_metric:
        scored = [reward for reward in rewards if reward is not None]
        log_metric("accuracy/scored", len(scored) / len(rewards))
    return rewards
