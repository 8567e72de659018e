"""Attention in groups: the same as plain attention, whichever rows leave and enter, and undone afterwards."""

import math
from itertools import chain
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache

from grpo_cli.cpu.fast_exp import exp, sigmoid_by_power
from grpo_cli.engine.rollout import continuous_batch as decode
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.prompt_cache import join, keep, read_prompts, select
from grpo_cli.engine.rollout.sampling import Sampling, draw
from grpo_cli.engine.rollout.shared_prompt import (
    GroupCache,
    grouped_attention,
    one_row,
    quick_decoding,
    reads_in_groups,
)
from grpo_cli.models import nanochat_v2
from grpo_cli.models.load import Policy
from tests.support.random_models import llama_policy, nanochat_policy, sliding_policy

PROMPTS = [list(b"one"), list(b"a much longer prompt"), list(b"z")]


@pytest.fixture(params=["nanochat", "llama"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return {"nanochat": nanochat_policy, "llama": llama_policy}[request.param]()


def test_attention_by_hand() -> None:
    """One head of one channel. A prompt of keys [0, ln 3] and values [1, 2]; own key ln 2, own value 5.

    The query 1 sees weights 1, 3 and 2: (1·1 + 3·2 + 2·5) / 6; without the prompt's first token, 16 / 5.
    """
    prompts = BatchKVCache([0])
    prompts.update_and_fetch(mx.array([[[[0.0], [math.log(3)]]]]), mx.array([[[[1.0], [2.0]]]]))
    cache = GroupCache(prompts, [0, 0])
    own = mx.full((2, 1, 1, 1), math.log(2))
    assert cache.make_mask(1).tolist() == [[[[True] * 3]]] * 2
    cache.update_and_fetch(own, mx.full((2, 1, 1, 1), 5.0))
    mask = mx.array([[True, True, True], [False, True, True]])[:, None, None]
    out = grouped_attention(mx.full((2, 1, 1, 1), 0.5), cache, 2.0, mask)
    assert mx.allclose(out.flatten(), mx.array([17 / 6, 16 / 5]), atol=1e-6)


def test_a_window_is_counted_in_positions_not_columns() -> None:
    """Prompts of 3 and 1 tokens; row 1 sees its own token only, and one more with a window of 2."""
    prompts = BatchKVCache([0, 2])
    prompts.update_and_fetch(mx.zeros((2, 1, 3, 1)), mx.zeros((2, 1, 3, 1)))
    cache = GroupCache(prompts, [0, 1])
    assert cache.offset.tolist() == [3, 1]
    whole: Any = cache.make_mask(1)[:, 0, 0].tolist()
    assert whole == [[True] * 4, [False, False, True, True]]
    narrow: Any = cache.make_mask(1, window_size=1)[:, 0, 0].tolist()
    assert narrow == [[False, False, False, True]] * 2
    two: Any = cache.make_mask(1, window_size=2)[:, 0, 0].tolist()
    assert two == [[False, False, True, True]] * 2


def check_step(model: Any, tokens: list[int], plain: list[Any], grouped: list[Any]) -> None:
    """The logits of the next tokens are the same with both caches."""
    ids = mx.array(tokens)[:, None]
    expected = model(ids, cache=plain)
    with quick_decoding():
        found = model(ids, cache=grouped)
    assert mx.allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_logits_are_the_plain_ones_while_rows_leave_and_enter(policy: Policy) -> None:
    model = policy.model
    rows = [0, 0, 0, 1, 1, 2]
    plain, grouped = read_prompts(model, PROMPTS), read_prompts(model, PROMPTS)
    keep(plain, rows)
    grouped = [GroupCache(layer, rows) for layer in grouped]

    def step(tokens: list[int]) -> None:
        check_step(model, tokens, plain, grouped)

    step([10, 11, 12, 13, 14, 15])
    step([20, 21, 22, 23, 24, 25])
    for cache in (plain, grouped):
        keep(cache, [5, 0, 2, 4])  # of all groups, in another order
    step([30, 31, 32, 33])
    for cache in (plain, grouped):
        keep(cache, [0, 1, 2])  # the longest prompt goes
    assert len(grouped[0].prompts.left_padding) == 2
    step([40, 41, 42])
    more = [[65, 66, 67, 68, 69], [70]]
    late = read_prompts(model, more)
    late_grouped = [GroupCache(layer, [0, 1, 1]) for layer in read_prompts(model, more)]
    keep(late, [0, 1, 1])
    join(plain, late)
    join(grouped, late_grouped)
    step([50, 51, 52, 53, 54, 55])
    step([60, 61, 62, 63, 64, 65])
    for cache in (plain, grouped):
        keep(cache, [4, 3])
    step([70, 71])


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_row_that_comes_back_joins_its_prompt_again(policy: Policy, place: int) -> None:
    """A row leaves, its answer is read outside while others go on; one prompt has 1 token."""
    model, rows = policy.model, [0, 0, 1, 2]
    plain, grouped = read_prompts(model, PROMPTS), read_prompts(model, PROMPTS)
    keep(plain, rows)
    names = [tuple(prompt) for prompt in PROMPTS]
    grouped = [GroupCache(layer, rows, names) for layer in grouped]

    def step(tokens: list[int]) -> None:
        check_step(model, tokens, plain, grouped)

    step([10, 11, 12, 13])
    prompt, answer = PROMPTS[rows[place]], mx.array([[80, 81, 82]])
    outside = [one_row(layer, place) for layer in grouped]
    others = [other for other in range(4) if other != place]
    expected = select(plain, [place])
    keep(plain, others)
    keep(grouped, others)
    step([20, 21, 22])
    model(answer, cache=expected)
    model(answer, cache=outside)
    join(plain, expected)
    join(grouped, [GroupCache.of_row(layer, len(prompt) - 1, tuple(prompt)) for layer in outside])
    assert sorted(grouped[0].names) == sorted(names)  # none twice
    assert grouped[0].prompts.keys.shape[0] == 3
    step([30, 31, 32, 33])
    step([40, 41, 42, 43])


def test_a_prompt_lies_in_memory_once(policy: Policy) -> None:
    cache = [GroupCache(layer, [0] * 6 + [1] * 6) for layer in read_prompts(policy.model, PROMPTS[:2])]
    assert cache[0].prompts.keys.shape[0] == 2
    with quick_decoding():
        policy.model(mx.zeros((12, 1), dtype=mx.int32), cache=cache)
    assert cache[0].prompts.keys.shape[0] == 2
    assert cache[0].own._idx == 1


def test_rollouts_are_those_of_plain_decoding(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.tokenizer.eos_ids = frozenset(range(230, 257))  # type: ignore[misc]
    assert reads_in_groups(policy.model)
    mx.random.seed(1)
    grouped = generate(policy, PROMPTS, 5, Sampling(max_new_tokens=24))
    monkeypatch.setattr(decode, "reads_in_groups", lambda _: False)
    mx.random.seed(1)
    plain = generate(policy, PROMPTS, 5, Sampling(max_new_tokens=24))
    pairs = zip(chain.from_iterable(grouped), chain.from_iterable(plain), strict=True)
    for one, other in pairs:
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_models_that_keep_decoding_plainly() -> None:
    assert not reads_in_groups(sliding_policy().model)  # its cache rotates
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    models = [
        nanochat_v2.Model(nanochat_v2.ModelArgs(**sizes, vocab_size=257, smear=s)) for s in (False, True)
    ]
    assert reads_in_groups(models[0])
    assert not reads_in_groups(models[1])  # of the same class, but it looks token ids up in its cache


def test_a_model_that_looks_into_its_keys_is_found() -> None:
    policy = llama_policy()

    class Curious(type(policy.model)):  # type: ignore[misc]
        def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
            return super().__call__(ids, cache=cache) + 0.0 * len(cache[0].state)

    class Deaf(type(policy.model)):  # type: ignore[misc]
        def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
            return super().__call__(ids, cache=cache) + float(isinstance(cache[0], GroupCache))

    for kind in (Curious, Deaf):
        assert not reads_in_groups(kind(policy.model.args))


def test_what_was_replaced_is_put_back_after_an_error() -> None:
    before = mx.fast.scaled_dot_product_attention, mx.sigmoid
    with pytest.raises(RuntimeError, match="in the middle"), quick_decoding():
        assert mx.fast.scaled_dot_product_attention is not before[0]
        raise RuntimeError("in the middle")
    assert (mx.fast.scaled_dot_product_attention, mx.sigmoid) == before


def test_the_exponential_and_the_sigmoid_by_values() -> None:
    x = mx.array([0.0, 1.0, -20.0, 5.5, -math.inf])
    expected = [1.0, math.e, math.exp(-20), math.exp(5.5), 0.0]
    assert exp(x).tolist() == pytest.approx(expected, rel=2e-6, abs=0)
    values = sigmoid_by_power(mx.array([0.0, 2.0, -2.0, -200.0, 200.0]))
    assert values.tolist() == pytest.approx([0.5, 0.880797, 0.119203, 0.0, 1.0], abs=1e-6)
    assert math.isnan(exp(mx.array(math.nan)).item())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprob_and_entropy_of_a_large_vocabulary_are_exact(temperature: float) -> None:
    """V equal logits but for some ruled out: log π = −ln n and the entropy is ln n nats, n = 49,003 left."""
    count = 49_003
    logits = mx.concatenate([mx.full((2, count), 3.0), mx.full((2, 149), -mx.inf)], axis=1)
    drawn = draw(logits, Sampling(max_new_tokens=1, temperature=temperature))
    assert mx.allclose(drawn.logprobs, mx.array(-math.log(count)), atol=2e-6, rtol=0)
    assert mx.allclose(drawn.entropies, mx.array(math.log(count)), atol=2e-6, rtol=0)
    assert drawn.tokens.max().item() < count
