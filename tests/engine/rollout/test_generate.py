"""Rollouts: the sampled logprobs are the training forward's, groups share a prefill, endings are kept."""

import math
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine.metrics import rollout_metrics
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout import continuous_batch as decode
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling, narrow
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.errors import ModelError
from grpo_cli.models.load import Policy
from grpo_cli.types import Rollout, StopReason
from tests.support.random_models import EOS, llama_policy, nanochat_policy, sliding_policy
from tests.support.random_models import group as small_group
from tests.support.random_models import rollout as small_rollout

PROMPTS = [list(b"one"), list(b"a much longer prompt"), list(b"z")]


@pytest.fixture(params=["nanochat", "llama"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return {"nanochat": nanochat_policy, "llama": llama_policy}[request.param]()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_sampled_logprobs_equal_the_training_forward(policy: Policy, temperature: float) -> None:
    policy.tokenizer.eos_ids = frozenset(range(230, 257))  # type: ignore[misc]
    mx.random.seed(1)
    groups = generate(policy, PROMPTS, 4, Sampling(max_new_tokens=24, temperature=temperature))
    rollouts = [(prompt, rollout) for prompt, group in zip(PROMPTS, groups, strict=True) for rollout in group]
    assert len({len(rollout.token_ids) for _, rollout in rollouts}) > 1  # some left the batch early
    batch = pad([TrainingSequence(prompt, rollout, 1.0) for prompt, rollout in rollouts])
    trained = token_logprobs(policy.model, batch, temperature)
    difference = mx.where(batch.loss_mask, trained - batch.old_logprobs, 0.0)
    assert mx.abs(difference).max().item() < 1e-4
    assert mx.abs(batch.old_logprobs).max().item() > 0.1


def test_greedy_follows_the_argmax_of_an_unbatched_unpadded_forward(policy: Policy) -> None:
    groups = generate(policy, PROMPTS, 2, Sampling(max_new_tokens=10, temperature=0.0))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = list(prompt)
        for token in group[0].token_ids:
            assert policy.model(mx.array([ids]))[0, -1].argmax().item() == token
            ids.append(token)
        assert group[1].token_ids == group[0].token_ids


def test_prompts_of_one_token_need_no_prefill(policy: Policy) -> None:
    (group,) = generate(policy, [[65]], 2, Sampling(max_new_tokens=6, temperature=0.0))
    ids = [65]
    for token in group[0].token_ids:
        assert policy.model(mx.array([ids]))[0, -1].argmax().item() == token
        ids.append(token)


def test_the_end_token_is_kept_with_its_logprob_and_left_out_of_the_text() -> None:
    policy = nanochat_policy()
    policy.model.lm_head.weight[EOS] = policy.model.lm_head.weight[EOS] * 4
    mx.random.seed(0)
    rollouts = generate(policy, PROMPTS, 16, Sampling(max_new_tokens=40))[0]
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
    free = generate(policy, [PROMPTS[0]], 1, Sampling(max_new_tokens=40))[0][0]
    text = policy.tokenizer.decode(free.token_ids)
    stop = text[5:8]
    mx.random.seed(3)
    stopped = generate(policy, [PROMPTS[0]], 1, Sampling(max_new_tokens=40, stop=(stop,)))[0][0]
    assert stopped.stop_reason is StopReason.STOP
    assert stopped.text == text[: len(stopped.text)]
    assert stopped.text.endswith(stop)
    assert text.index(stop) + len(stop) == len(stopped.text)


def test_the_prefix_begins_the_text_and_is_no_token_of_the_completion() -> None:
    policy = nanochat_policy()
    mx.random.seed(0)
    plain = generate(policy, [PROMPTS[0]], 1, Sampling(max_new_tokens=5))[0][0]
    mx.random.seed(0)
    prefixed = generate(policy, [PROMPTS[0]], 1, Sampling(max_new_tokens=5), prefix="<reasoning>")[0][0]
    assert prefixed.text == "<reasoning>" + plain.text
    assert prefixed.token_ids == plain.token_ids


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int, int]] = []
    groups = generate(
        nanochat_policy(), PROMPTS, 2, Sampling(max_new_tokens=6), lambda *counts: seen.append(counts)
    )
    assert seen[-1] == (6, 6, sum(len(rollout.token_ids) for group in groups for rollout in group))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ModelError, match="A prompt of 0 tokens"):
        generate(nanochat_policy(), [[]], 1, Sampling(max_new_tokens=4))


# --- the kept mass --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12, temperature=0.8, top_k=5),
        Sampling(max_new_tokens=12, temperature=1.3, top_p=0.7, min_p=0.02),
    ],
)
def test_the_recorded_mass_is_that_of_the_training_forward(policy: Policy, sampling: Sampling) -> None:
    """Of a plain forward over the whole sequence: π and the mass of the tokens that the cut leaves."""
    mx.random.seed(4)
    groups = generate(policy, PROMPTS, 2, sampling)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for one in group:
            logits = policy.model(mx.array([prompt + one.token_ids]))[0, len(prompt) - 1 : -1]
            scaled = logits / sampling.temperature  # (T, V)
            whole = scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)
            cut = mx.where(narrow(scaled, sampling) == -mx.inf, -mx.inf, whole)
            masses = mx.logsumexp(cut, axis=-1)
            chosen = mx.take_along_axis(cut, mx.array(one.token_ids)[:, None], axis=-1).squeeze(-1)
            assert mx.allclose(masses, mx.array(one.log_kept), atol=1e-4)
            assert mx.allclose(chosen - masses, mx.array(one.sampled_logprobs), atol=1e-4)
            assert min(one.log_kept) < -1e-3  # something was cut
            assert max(one.sampled_logprobs) <= 1e-6


def test_the_mean_kept_mass_is_logged_where_something_is_cut() -> None:
    group = small_group([1], [small_rollout([2, 3]), small_rollout([4])])
    assert "kept_mass" not in rollout_metrics([group])
    group.rollouts[0].log_kept, group.rollouts[1].log_kept = [math.log(0.5), math.log(0.75)], [0.0]
    assert rollout_metrics([group])["kept_mass"] == pytest.approx(0.75)  # of 0.5, 0.75 and 1


# --- continuous batching --------------------------------------------------------------------------


def sampled(policy: Policy, rows: int | None, sampling: Sampling) -> list[list[Any]]:
    mx.random.seed(3)
    return generate(policy, [*PROMPTS, PROMPTS[0]], 3, sampling, limit=RowLimit(rows))


def early_ending(policy: Policy) -> Policy:
    policy.tokenizer.eos_ids = frozenset(range(240, 257))  # type: ignore[misc]
    return policy


@pytest.mark.parametrize("make", [nanochat_policy, llama_policy, sliding_policy])
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
@pytest.mark.parametrize("cut", [{}, {"top_k": 20}])
def test_rows_that_enter_later_come_out_as_in_one_batch(make: Any, rows: int, cut: Any) -> None:
    policy, sampling = early_ending(make()), Sampling(max_new_tokens=30, temperature=1.0, **cut)
    whole, few = sampled(policy, None, sampling), sampled(policy, rows, sampling)
    lengths = {len(one.token_ids) for group in whole for one in group}
    assert len(lengths) > 4  # rows do leave at different times
    for expected, group in zip(whole, few, strict=True):
        for a, b in zip(expected, group, strict=True):
            assert (a.token_ids, a.stop_reason, a.text) == (b.token_ids, b.stop_reason, b.text)
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
            assert a.entropies == pytest.approx(b.entropies, abs=1e-4)
            assert a.log_kept == pytest.approx(b.log_kept, abs=1e-4)
            assert len(a.log_kept) == (len(a.token_ids) if cut else 0)


def test_the_batch_is_never_wider_than_its_limit_and_stays_full(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = early_ending(nanochat_policy())
    widths: list[int] = []
    call = type(policy.model).__call__

    def counted(self: Any, ids: mx.array, cache: Any = None) -> Any:
        if ids.shape[1] == 1:
            widths.append(len(ids))
        return call(self, ids, cache=cache)

    monkeypatch.setattr(type(policy.model), "__call__", counted)
    mx.random.seed(3)
    groups = generate(
        policy, [list(b"abc"), list(b"defg")], 12, Sampling(max_new_tokens=40), limit=RowLimit(4)
    )
    assert max(widths) == 4
    lengths = [len(one.token_ids) for group in groups for one in group]
    one_after_the_other = sum(max(lengths[start : start + 4]) for start in range(0, 24, 4))
    # A row is computed once past its end, and only when no row waits any more are places empty.
    assert len(widths) <= (sum(lengths) + len(lengths)) / 4 + max(lengths)
    assert len(widths) < 0.75 * one_after_the_other
    assert sum(widths) <= sum(lengths) + len(lengths)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_prompt_is_read_once_for_all_rows_whenever_they_enter(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    real = decode.read_prompts

    def counted(model: Any, prompts: list[list[int]], chunk: int, padded: bool) -> Any:
        read.extend(prompts)
        return real(model, prompts, chunk, padded)

    monkeypatch.setattr(decode, "read_prompts", counted)
    generate(early_ending(nanochat_policy()), PROMPTS, 4, Sampling(max_new_tokens=10), limit=RowLimit(rows))
    assert read == PROMPTS


def test_no_forward_is_made_past_the_longest_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, calls = nanochat_policy(), []
    policy.tokenizer.eos_ids = frozenset()  # type: ignore[misc]
    call = type(policy.model).__call__

    def counted(self: Any, ids: mx.array, cache: Any = None) -> Any:
        calls.append(ids.shape)
        return call(self, ids, cache=cache)

    monkeypatch.setattr(type(policy.model), "__call__", counted)
    generate(policy, [[1, 2, 3]], 4, Sampling(max_new_tokens=7))
    assert calls == [(1, 2), *[(4, 1)] * 7]


# --- each group is handed over as it ends ---------------------------------------------------------


FOUR = [list(b"one"), list(b"a much longer prompt"), list(b"z"), list(b"four")]


def ending_early() -> Policy:
    """A nanochat that ends some completions early, by fewer tokens than `early_ending`."""
    policy = nanochat_policy()
    policy.tokenizer.eos_ids = frozenset(range(245, 257))  # type: ignore[misc]
    return policy


@pytest.mark.parametrize("rows", [None, 3])
def test_each_group_is_handed_over_once_with_its_last_token(rows: int | None) -> None:
    """Those that end early before the others' last tokens, with what comes out in the end."""
    handed: list[tuple[int, int, list[Rollout]]] = []
    tokens = 0

    def progress(ended: int, total: int, count: int) -> None:
        nonlocal tokens
        del ended, total
        tokens = count

    mx.random.seed(5)
    groups = generate(
        ending_early(), FOUR, 3, Sampling(max_new_tokens=60), progress, limit=RowLimit(rows),
        on_group=lambda place, rollouts: handed.append((place, tokens, rollouts)),
    )  # fmt: skip
    assert sorted(place for place, _, _ in handed) == [0, 1, 2, 3]
    assert all(rollouts is groups[place] for place, _, rollouts in handed)
    assert handed[0][1] < 0.8 * tokens
    assert [count for _, count, _ in handed] == sorted(count for _, count, _ in handed)


def test_a_group_that_had_ended_is_not_handed_over_again_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = ending_early()
    handed: list[int] = []
    failed: list[int] = []
    call = type(policy.model).__call__

    def short_of_memory(self: Any, ids: mx.array, cache: Any = None) -> Any:
        if handed and not failed:
            failed.append(len(ids))
            raise RuntimeError("[metal::malloc] Attempting to allocate 1 bytes")
        return call(self, ids, cache=cache)

    mx.random.seed(5)
    expected = generate(policy, FOUR, 3, Sampling(max_new_tokens=60))
    monkeypatch.setattr(type(policy.model), "__call__", short_of_memory)
    mx.random.seed(5)
    groups = generate(
        policy, FOUR, 3, Sampling(max_new_tokens=60), on_group=lambda place, _: handed.append(place)
    )
    assert len(failed) == 1
    assert sorted(handed) == [0, 1, 2, 3]
    ids = [[item.token_ids for item in group] for group in groups]
    assert ids == [[item.token_ids for item in group] for group in expected]
