"""Streaming of one completion's text, for `grpo generate`.

for piece, ended in stream(policy, prompt_ids, Sampling(max_new_tokens=256)): print(piece, end="")
"""

import math
from collections import deque
from collections.abc import Iterator

import mlx.core as mx

from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.continuous_batch import PREFILL_TOKENS, broken_policy, stop_reason
from grpo_cli.engine.rollout.prompt_cache import read_prompts
from grpo_cli.engine.rollout.rows import CompletionRow
from grpo_cli.engine.rollout.sampling import SampledTokens, Sampling, draw, uniforms
from grpo_cli.engine.rollout.turns import goes_on
from grpo_cli.environments.session import Session
from grpo_cli.models.lean_layers import lean_layers
from grpo_cli.models.load import Policy, check_prompts
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import StopReason

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # an incomplete UTF-8 character decodes to this


def stream(
    policy: Policy,
    prompt_ids: list[int],
    sampling: Sampling,
    prefix: str = "",
    session: Session | None = None,
) -> Iterator[tuple[str, StopReason | None]]:
    """Yield pieces of text as they are sampled, the last one with its stop reason.

    Concatenated they are the completion without its prefix, with the tokens that the environment of `session`
    wrote. Its messages are left out: `session.messages` has them. Raises TrainingError for NaN logits.
    """
    row, start, shown = CompletionRow(index=0, prompt=prompt_ids), 0, ""
    row.begin(session)
    whole = text_of = CompletionText(policy.tokenizer, prefix)
    markers = session.environment.marker_ids if session else frozenset()
    for _ in sampled(policy, row, sampling, whole):
        is_turn = row.stop_reason is not None
        if session is not None and not is_turn:
            consult(row, session, policy.tokenizer, sampling)
        text = text_of.after_prefix(row.token_ids[start:], markers)
        if text.endswith(UNFINISHED) and row.stop_reason is None:
            continue
        if session is not None and is_turn:
            yield text[len(shown) :], None  # before the environment is asked, which may take long
            shown, told = text, len(session.messages)
            consult(row, session, policy.tokenizer, sampling)
            if len(session.messages) > told + 1:  # answered by messages
                start, shown, text_of = row.turn_start, "", CompletionText(policy.tokenizer)
            text = text_of.after_prefix(row.token_ids[start:], markers)
        yield text[len(shown) :], row.stop_reason
        shown = text


def sampled(
    policy: Policy, row: CompletionRow, sampling: Sampling, whole: CompletionText
) -> Iterator[CompletionRow]:
    """Sample a row token by token until it ends. Between two tokens others may append to it, or revive it.

    While a token is read and shown, the device already computes the next. If others append to the row, that
    one is void, and its random numbers serve the token after theirs. `whole`: finds stop strings. Raises
    TrainingError for logits that are NaN.
    """
    check_prompts(policy, [row.prompt])
    with lean_layers(policy.model):
        cache = read_prompts(policy.model, [row.prompt], PREFILL_TOKENS, "single")

    def launch(ids: mx.array, random: mx.array | None) -> SampledTokens:
        """Start computing the token after `ids` (1, S)."""
        row.cached += ids.shape[1]
        drawn = draw(policy.model(ids, cache=cache)[:, -1], sampling, random)
        mx.async_eval(drawn.tokens, drawn.logprobs)
        return drawn

    def numbers() -> mx.array | None:
        return uniforms(1) if sampling.temperature > 0 else None

    random = numbers()
    ahead: SampledTokens | None = None
    while row.stop_reason is None:
        unread = row.context[row.cached :]
        now = launch(mx.array([unread]), random) if ahead is None or unread else ahead
        random, ahead = numbers(), None
        if row.sampled + 1 < sampling.max_new_tokens:
            ahead = launch(now.tokens[:, None], random)
        logprob = float(now.logprobs.item())  # type: ignore[arg-type]
        if not math.isfinite(logprob):
            raise broken_policy(row)
        row.add(int(now.tokens), logprob, 0.0, None)
        row.stop_reason = stop_reason(row, sampling, whole)
        yield row


def consult(row: CompletionRow, session: Session, tokenizer: Tokenizer, sampling: Sampling) -> None:
    """Let the environment read the newest token, or answer the turn that ended with it."""
    forced = deque(session.read(row.token_ids[-1]))
    if row.stop_reason is None:
        while forced:
            row.add_forced([forced.popleft()], cuts_tail=False)
            forced.extend(session.read(row.token_ids[-1]))
        row.stop_reason = StopReason.LENGTH if session.is_full else None
    elif row.stop_reason is not StopReason.LENGTH and session.answers_turns:
        turn = row.turn(tokenizer.spell, tokenizer.eos_ids)
        reply = session.respond(turn)
        if reply is not None:
            goes_on(row, session, turn, reply, sampling)
