"""A reward that tells any two completions apart, so that every step has a gradient."""


def mean_letter(completions, **_columns):
    texts = [completion[0]["content"] for completion in completions]
    return [sum(map(ord, text)) / max(len(text), 1) / 100 + len(text) / 1000 for text in texts]
