"""A reward that tells any two completions apart, so that every step has a gradient."""

import random

import mlx.core as mx
import numpy as np


def mean_letter(completions, **_columns):
    texts = [completion[0]["content"] for completion in completions]
    return [sum(map(ord, text)) / max(len(text), 1) / 100 + len(text) / 1000 for text in texts]


def with_seeds(completions, **columns):
    """The same from a judge that repeats itself: it seeds everything that is everyone's."""
    mx.random.seed(0)
    random.seed(0)
    np.random.seed(0)
    return mean_letter(completions, **columns)
