"""Streaming of one completion's text, for `grpo generate`.

for piece, ended in stream(policy, prompt_ids, Sampling(max_new_tokens=256)): print(piece, end="")
"""

import math
from collections.abc import Iterator

import mlx.core as mx

from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.continuous_batch import PREFILL_TOKENS, CompletionRow, broken_policy, stop_reason
from grpo_cli.engine.rollout.prompt_cache import read_prompts
from grpo_cli.engine.rollout.sampling import Sampling, draw
from grpo_cli.models.load import Policy, check_prompts
from grpo_cli.types import StopReason

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # an incomplete UTF-8 character decodes to this


def stream(
    policy: Policy, prompt_ids: list[int], sampling: Sampling, prefix: str = ""
) -> Iterator[tuple[str, StopReason | None]]:
    """Yield pieces of text as they are sampled, the last one with its stop reason.

    Concatenated they are the completion without its prefix. Raises TrainingError for logits that are NaN.
    """
    row, shown, whole = (
        CompletionRow(index=0, prompt=prompt_ids),
        "",
        CompletionText(policy.tokenizer, prefix),
    )
    check_prompts(policy, [prompt_ids])
    cache = read_prompts(policy.model, [prompt_ids], PREFILL_TOKENS)
    token = prompt_ids[-1]
    while row.stop_reason is None:
        logits = policy.model(mx.array([[token]]), cache=cache)[:, -1]  # (1, V)
        drawn = draw(logits, sampling)
        if not math.isfinite(drawn.logprobs.item()):  # type: ignore[arg-type]
            raise broken_policy(row)
        token = int(drawn.tokens)
        row.token_ids.append(token)
        row.stop_reason = stop_reason(row.token_ids, sampling, whole)
        text = whole.after_prefix(row.token_ids)
        if text.endswith(UNFINISHED) and row.stop_reason is None:
            continue
        yield text[len(shown) :], row.stop_reason
        shown = text
