"""Rollouts: the sampled logprobs are the training forward's, groups share a prefill, endings are kept."""

import mlx.core as mx
import pytest

from grpo_cli.engine.batch import Sequence, pad
from grpo_cli.engine.rollout import generate
from grpo_cli.engine.sampling import Sampling, draw, narrow
from grpo_cli.engine.update import token_logprobs
from grpo_cli.errors import ModelError
from grpo_cli.models.load import Policy
from grpo_cli.types import StopReason
from tests.engine.small import EOS, llama_policy, nanochat_policy

PROMPTS = [list(b"one"), list(b"a much longer prompt"), list(b"z")]


@pytest.fixture(params=["nanochat", "llama"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return {"nanochat": nanochat_policy, "llama": llama_policy}[request.param]()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_sampled_logprobs_equal_the_training_forward(policy: Policy, temperature: float) -> None:
    policy.tokenizer.eos_ids = frozenset(range(230, 257))  # type: ignore[misc]
    mx.random.seed(1)
    groups = generate(policy, PROMPTS, 4, Sampling(24, temperature))
    rollouts = [(prompt, rollout) for prompt, group in zip(PROMPTS, groups, strict=True) for rollout in group]
    assert len({len(rollout.token_ids) for _, rollout in rollouts}) > 1  # some left the batch early
    batch = pad([Sequence(prompt, rollout, 1.0) for prompt, rollout in rollouts])
    trained = token_logprobs(policy.model, batch, temperature)
    difference = mx.where(batch.completion_mask, trained - batch.old_logprobs, 0.0)
    assert mx.abs(difference).max().item() < 1e-4
    assert mx.abs(batch.old_logprobs).max().item() > 0.1


def test_greedy_follows_the_argmax_of_an_unbatched_unpadded_forward(policy: Policy) -> None:
    groups = generate(policy, PROMPTS, 2, Sampling(10, temperature=0.0))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = list(prompt)
        for token in group[0].token_ids:
            assert policy.model(mx.array([ids]))[0, -1].argmax().item() == token
            ids.append(token)
        assert group[1].token_ids == group[0].token_ids


def test_prompts_of_one_token_need_no_prefill(policy: Policy) -> None:
    (group,) = generate(policy, [[65]], 2, Sampling(6, temperature=0.0))
    ids = [65]
    for token in group[0].token_ids:
        assert policy.model(mx.array([ids]))[0, -1].argmax().item() == token
        ids.append(token)


def test_the_end_token_is_kept_with_its_logprob_and_left_out_of_the_text() -> None:
    policy = nanochat_policy()
    policy.model.lm_head.weight[EOS] = policy.model.lm_head.weight[EOS] * 4
    mx.random.seed(0)
    rollouts = generate(policy, PROMPTS, 16, Sampling(40))[0]
    ended = [rollout for rollout in rollouts if rollout.stop_reason is StopReason.EOS]
    assert ended
    for rollout in ended:
        assert rollout.token_ids[-1] == EOS
        assert EOS not in rollout.token_ids[:-1]
        assert len(rollout.logprobs) == len(rollout.token_ids) == len(rollout.entropies)
    for rollout in rollouts:
        assert (rollout.stop_reason is StopReason.LENGTH) == (
            len(rollout.token_ids) == 40 and EOS not in rollout.token_ids
        )


def test_a_stop_string_that_spans_tokens_ends_the_completion() -> None:
    policy = nanochat_policy()
    mx.random.seed(3)
    free = generate(policy, [PROMPTS[0]], 1, Sampling(40))[0][0]
    text = policy.tokenizer.decode(free.token_ids)
    stop = text[5:8]
    mx.random.seed(3)
    stopped = generate(policy, [PROMPTS[0]], 1, Sampling(40, stop=(stop,)))[0][0]
    assert stopped.stop_reason is StopReason.STOP
    assert stopped.text == text[: len(stopped.text)]
    assert stopped.text.endswith(stop)
    assert text.index(stop) + len(stop) == len(stopped.text)


def test_the_prefix_begins_the_text_and_is_no_token_of_the_completion() -> None:
    policy = nanochat_policy()
    mx.random.seed(0)
    plain = generate(policy, [PROMPTS[0]], 1, Sampling(5))[0][0]
    mx.random.seed(0)
    prefixed = generate(policy, [PROMPTS[0]], 1, Sampling(5), prefix="<reasoning>")[0][0]
    assert prefixed.text == "<reasoning>" + plain.text
    assert prefixed.token_ids == plain.token_ids


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int, int]] = []
    groups = generate(nanochat_policy(), PROMPTS, 2, Sampling(6), lambda *counts: seen.append(counts))
    assert seen[-1] == (6, 6, sum(len(rollout.token_ids) for group in groups for rollout in group))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ModelError, match="A prompt of 0 tokens"):
        generate(nanochat_policy(), [[]], 1, Sampling(4))


def test_draw_by_hand() -> None:
    # logits [ln 1, ln 3] at temperature 1: probabilities 0.25, 0.75; entropy 0.5623 nats
    logits = mx.log(mx.array([[1.0, 3.0]] * 4000))
    mx.random.seed(0)
    drawn = draw(logits, Sampling(1))
    assert drawn.tokens.sum().item() / 4000 == pytest.approx(0.75, abs=0.03)
    chosen = mx.where(drawn.tokens == 1, mx.log(mx.array(0.75)), mx.log(mx.array(0.25)))
    assert mx.allclose(drawn.logprobs, chosen, atol=1e-6)
    assert drawn.entropies[0].item() == pytest.approx(0.562335, abs=1e-5)
    # temperature 0.5 squares the odds: 0.1, 0.9
    colder = draw(logits, Sampling(1, temperature=0.5))
    assert colder.tokens.sum().item() / 4000 == pytest.approx(0.9, abs=0.03)
    assert draw(logits, Sampling(1, temperature=0.0)).tokens.tolist() == [1] * 4000


def kept(sampling: Sampling, probabilities: list[float]) -> list[bool]:
    logits = narrow(mx.log(mx.array([probabilities])), sampling)[0]
    return [value > float("-inf") for value in logits.tolist()]


def test_top_k_top_p_and_min_p_by_hand() -> None:
    probabilities = [0.1, 0.5, 0.15, 0.25]
    assert kept(Sampling(1, top_k=2), probabilities) == [False, True, False, True]
    assert kept(Sampling(1, top_p=0.7), probabilities) == [False, True, False, True]
    assert kept(Sampling(1, top_p=0.8), probabilities) == [False, True, True, True]
    assert kept(Sampling(1, top_p=0.01), probabilities) == [False, True, False, False]
    assert kept(Sampling(1, min_p=0.25), probabilities) == [False, True, True, True]
    assert kept(Sampling(1, top_k=100), probabilities) == [True] * 4
