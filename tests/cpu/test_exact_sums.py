"""Long float32 sums against numpy's float64, at the vocabularies of Llama, Qwen and Gemma."""

import math

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.cpu.exact_sums import logsumexp, row_sums, running_sums, total
from grpo_cli.engine.grpo.entropy import logprobs_and_entropies
from grpo_cli.engine.rollout.prompt_cache import keep, read_prompts
from grpo_cli.engine.rollout.sampling import Sampling, draw
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.chunked_logits import chosen_logprobs, find_head, in_slices
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.gradient import accumulate, global_norm
from tests.support.random_models import group, rollout
from tests.support.steps import objective_of

VOCABULARIES = [49_152, 151_936, 262_144]
SPREADS = [0.0, 0.02, 3.0]  # of the logits: all equal, an untrained model, a trained one


def logits_of(vocabulary: int, spread: float) -> np.ndarray:
    """(3, V) float32; the first row has a token that the model rules out."""
    logits = np.random.default_rng(0).normal(5.0, spread, (3, vocabulary)).astype(np.float32)
    logits[0, 7] = -np.inf
    return logits


def plain_logsumexp(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return np.log(np.exp(wide).sum(axis=-1))


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_value_and_gradient_equal_float64(vocabulary: int, spread: float) -> None:
    logits = logits_of(vocabulary, spread)
    exact = plain_logsumexp(logits)
    cotangent = np.array([1.0, -2.0, 0.5])
    value, gradient = mx.value_and_grad(lambda x: (logsumexp(x) * mx.array(cotangent)).sum())(
        mx.array(logits)
    )
    assert value.item() == pytest.approx((exact * cotangent).sum(), rel=1e-6)
    assert np.array(logsumexp(mx.array(logits))) == pytest.approx(exact, rel=3e-7)
    expected = np.exp(logits.astype(np.float64) - exact[:, None]) * cotangent[:, None]
    assert np.array(gradient)[0, 7] == 0.0
    assert np.abs(np.array(gradient) - expected).max() <= 3e-6 * np.abs(expected).max()
    assert np.array(gradient, np.float64).sum(axis=-1) == pytest.approx(cotangent, rel=3e-6)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_everything_made_of_logits_is_of_one_normalizer(vocabulary: int, spread: float) -> None:
    """Sampler, loss, loss in slices, and the entropies of both."""
    logits = logits_of(vocabulary, spread)
    exact = plain_logsumexp(logits)
    sampled = draw(
        mx.array(logits), Sampling(max_new_tokens=1), mx.array([[0.3, 0.6], [0.9, 0.1], [0.5, 0.5]])
    )
    tokens = np.array(sampled.tokens)
    logprobs = logits.astype(np.float64)[range(3), tokens] - exact
    of_slices = in_slices(lambda start, x: chosen_logprobs(x, sampled.tokens[start : start + 2]), 2)
    for found in (
        sampled.logprobs,
        chosen_logprobs(mx.array(logits), sampled.tokens),
        of_slices(mx.array(logits)),
    ):
        assert np.array(found) == pytest.approx(logprobs, abs=3e-6)
    whole = np.where(np.isinf(logits), 0.0, logits.astype(np.float64) - exact[:, None])
    entropies = -(np.exp(logits.astype(np.float64) - exact[:, None]) * whole).sum(axis=-1)
    assert np.array(sampled.entropies) == pytest.approx(entropies, rel=2e-6)
    both = logprobs_and_entropies(mx.array(logits), sampled.tokens)
    assert np.array(both[0]) == pytest.approx(logprobs, abs=3e-6)
    assert np.array(both[1]) == pytest.approx(entropies, rel=2e-6)
    slope = mx.grad(lambda x: logprobs_and_entropies(x, sampled.tokens)[1].sum())(mx.array(logits))
    probs = np.exp(logits.astype(np.float64) - exact[:, None])
    expected = -probs * (whole + entropies[:, None])
    # −p · (log p + H): where logits are flat two numbers of about 12 cancel, which leaves their rounding.
    terms = probs * (np.abs(whole) + entropies[:, None])
    assert np.abs(np.array(slope) - expected).max() <= 3e-6 * terms.max()


def test_no_completion_is_dropped_at_the_first_update_of_gspo() -> None:
    """Its clip of 3e-4 is smaller than what the sums differed by: the ratio of the policy itself is 1."""
    mx.random.seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}
    model = llama.Model(llama.ModelArgs(model_type="llama", rms_norm_eps=1e-5, vocab_size=262_144, **sizes))
    model.model.embed_tokens.weight = mx.random.normal((262_144, 16)) * 0.5  # spread, as a trained one's
    rows = []
    for prompt in ([5, 6, 7], [8]):
        cache = read_prompts(model, [prompt])
        keep(cache, [0, 0])
        drawn = draw(model(mx.array([prompt[-1:]] * 2), cache=cache)[:, -1], Sampling(max_new_tokens=1))
        rows.append((prompt, drawn.tokens.tolist(), drawn.logprobs.tolist()))
    groups = [
        group(prompt, [rollout([token], advantage, [logprob])
                       for token, logprob, advantage in zip(tokens, logprobs, (1.0, -1.0), strict=True)])
        for prompt, tokens, logprobs in rows
    ]  # fmt: skip
    for head in (None, find_head(model)):
        batches = make_microbatches(groups, LOSS_TYPES["gspo"], 1, 2, has_reference=False)
        objective = objective_of("gspo", 1.0, 3e-4, 3e-4, 0.0, head=head)
        _, result = accumulate(model, batches, objective)
        assert result.clip_ratio == 0.0
        found = mx.concatenate(result.logprobs) - batches[0].old_logprobs
        assert mx.abs(found).max().item() < 5e-6
        assert (
            mx.abs(
                token_logprobs(model, batches[0], 1.0, ForwardPlan(head=head)) - batches[0].old_logprobs
            ).max()
            < 5e-6
        )


def test_the_norm_of_a_large_gradient() -> None:
    """Of the embeddings of 151,936 words and 896 channels it was off by more than a quarter."""
    gradient = mx.random.uniform(0.5, 1.5, (4_000, 1000), key=mx.random.key(0))
    exact = math.sqrt((np.array(gradient, np.float64) ** 2).sum())
    assert global_norm({"weight": gradient}) == pytest.approx(exact, rel=3e-7)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 3_000_001])
def test_totals_of_any_size(size: int) -> None:
    numbers = np.random.default_rng(size).uniform(-1.0, 1.5, size).astype(np.float32)
    assert total(mx.array(numbers)).item() == pytest.approx(numbers.sum(dtype=np.float64), rel=2e-6)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 151_936])
def test_running_sums(length: int) -> None:
    numbers = np.random.default_rng(length).uniform(0.0, 1.0, (2, length)).astype(np.float32)
    exact = np.cumsum(numbers, axis=1, dtype=np.float64)
    assert np.abs(np.array(running_sums(mx.array(numbers))) / exact - 1).max() < 2e-6
    assert np.array(row_sums(mx.array(numbers))) == pytest.approx(exact[:, -1], rel=1e-6)
