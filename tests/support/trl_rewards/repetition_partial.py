"""A penalty on repeated n-grams, its parameters bound by functools.partial."""

# ruff: noqa: ARG001

from functools import partial


def _repetition_penalty(completions, ngram_size, max_penalty, **kwargs):
    rewards = []
    for completion in completions:
        words = completion[0]["content"].lower().split()
        if len(words) < ngram_size:
            rewards.append(0.0)
            continue
        ngrams = list(zip(*[words[i:] for i in range(ngram_size)], strict=False))
        rewards.append((1 - len(set(ngrams)) / len(ngrams)) * max_penalty)
    return rewards


repetition_penalty = partial(_repetition_penalty, ngram_size=2, max_penalty=-1.0)
