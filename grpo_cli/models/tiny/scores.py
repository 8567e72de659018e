"""Scores of a model on the embedded task: sampled freely, and in each of its author's styles."""

from collections.abc import Iterable
from typing import cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.nanochat import Model

from grpo_cli.data import arithmetic
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tiny import author

Problem = tuple[int, int]
LONGEST = 48  # maximum tokens of a completion; a careful three-digit one has 35


def all_scores(model: Model, tokenizer: NanochatTokenizer) -> dict[str, float]:
    """Scores on the test split: greedy, sampled, and with the start of each style given."""
    problems = test_problems()
    beginnings = {
        "careful": [str(a % 10) for a, _ in problems],  # the upper digit of the first column
        "hasty": ["easy"] * len(problems),
    }
    expected = {"careful": author.careful, "hasty": author.hasty}
    greedy = completions(model, tokenizer, problems)
    sampled = completions(model, tokenizer, problems, temperature=1.0)
    with_system = completions(model, tokenizer, problems, system_prompt=author.SYSTEM_PROMPTS[-1])
    scores = {
        "greedy_exact_match": exact_match(problems, greedy),
        "greedy_careful": careful_share(greedy),
        "sampled_exact_match": exact_match(problems, sampled),
        "sampled_careful": careful_share(sampled),
        "with_system_prompt_exact_match": exact_match(problems, with_system),
    }
    for style, begin in beginnings.items():
        texts = completions(model, tokenizer, problems, begin)
        written = [expected[style](*problem) for problem in problems]
        scores[f"{style}_exact_match"] = exact_match(problems, texts)
        scores[f"{style}_as_its_author"] = share(map(str.__eq__, texts, written))
    return scores


def test_problems(count: int = arithmetic.TEST_PROBLEMS) -> list[Problem]:
    """The first problems of the embedded test split, at its default difficulty."""
    problems = arithmetic.problems(
        "test", arithmetic.DEFAULT_DIFFICULTY, arithmetic.TEST_PROBLEMS, arithmetic.TEST_SEED
    )
    return list(problems[:count])


def share(results: Iterable[bool]) -> float:
    """Fraction that is true, to four places."""
    values = list(results)
    return round(sum(values) / len(values), 4)


def exact_match(problems: list[Problem], texts: list[str]) -> float:
    """Share of completions that end in the right answer."""
    endings = (f"<answer>{a + b}</answer>" for a, b in problems)
    return share(map(str.endswith, texts, endings))


def careful_share(texts: list[str]) -> float:
    """Share of completions that reason in digits."""
    return share(text.removeprefix("<reasoning>")[:1].isdigit() for text in texts)


def completions(
    model: Model,
    tokenizer: NanochatTokenizer,
    problems: list[Problem],
    beginnings: list[str] | None = None,
    system_prompt: str = "",
    temperature: float = 0.0,
) -> list[str]:
    """The text of one completion per problem, greedy at temperature 0.

    `beginnings` follow `<reasoning>`. The prompts must have equal lengths (there is no padding).
    """
    prefixes = [f"<reasoning>{begin}" for begin in beginnings or [""] * len(problems)]
    prompts = []
    for problem, prefix in zip(problems, prefixes, strict=True):
        message = {"role": "user", "content": author.question(*problem, system_prompt)}
        prompts.append(tokenizer.encode_prompt([message], prefix))
    rows = generate(model, mx.array(prompts), temperature, tokenizer.eos_ids)
    cut = [until_end(row, tokenizer.eos_ids) for row in rows]
    return [prefix + tokenizer.decode(row) for prefix, row in zip(prefixes, cut, strict=True)]


def until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """The ids before the first end token."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def generate(model: Model, prompts: mx.array, temperature: float, ends: frozenset[int]) -> list[list[int]]:
    """Up to LONGEST tokens after each prompt (B, T); ignore tokens after an end token."""
    mx.random.seed(0)
    cache = make_prompt_cache(model)
    rows: list[list[int]] = [[] for _ in range(prompts.shape[0])]
    tokens = prompts
    while len(rows[0]) < LONGEST and not all(ends & set(row) for row in rows):
        logits = model(tokens, cache=cache)[:, -1]  # (B, V)
        chosen = mx.random.categorical(logits / temperature) if temperature else mx.argmax(logits, axis=-1)
        for row, token in zip(rows, cast(list[int], chosen.tolist()), strict=True):
            row.append(token)
        tokens = chosen[:, None]
    return rows
