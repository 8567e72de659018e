"""Rows with environments: forced tokens and turns, in batches of every size, however long an answer takes."""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import chain

import mlx.core as mx
import pytest

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.rows import CompletionRow
from grpo_cli.engine.rollout.sampling import KeyChain, Sampling
from grpo_cli.engine.rollout.stream import stream
from grpo_cli.engine.rollout.turns import Outside
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.gradient import Gradients, accumulate
from grpo_cli.environments.by_hand import plain_render
from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.environments.session import Limits, Session
from grpo_cli.errors import TrainingError
from grpo_cli.models.load import Policy, load_policy
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.support.environments import Asking, Echo, SlowlyAsking
from tests.support.gradients import largest_difference
from tests.support.shallow_model import shallow_model
from tests.support.steps import objective_of

PROMPTS = ["12 + 30 =", "What is 5 + 7?", "900 + 99 = <answer>"]
SAMPLING = Sampling(max_new_tokens=24, temperature=1.5)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(shallow_model())


@pytest.fixture(scope="module")
def able() -> Policy:
    """A model that ends its completions when it chooses the likeliest token, too."""
    return load_policy("tiny")


def sampled(
    policy: Policy,
    make: Callable[[], Environment],
    at_once: int = 100,
    limits: Limits = Limits(max_result_tokens=60),
    sampling: Sampling = SAMPLING,
) -> list[Rollout]:
    ids = [policy.tokenizer.encode_text(text) for text in PROMPTS]
    groups = generate(
        policy, ids, 4, sampling, random=KeyChain([1, 2]), limit=RowLimit(at_once),
        sessions=lambda *_: Session(make(), limits),
    )  # fmt: skip
    return [rollout for group in groups for rollout in group]


def check(policy: Policy, rollouts: list[Rollout]) -> None:
    """Each sampled token's logprob is that of a plain forward over all tokens before it, forced ones too."""
    for number, rollout in enumerate(rollouts):
        prompt = policy.tokenizer.encode_text(PROMPTS[number // 4])
        whole = mx.array([prompt + rollout.token_ids])
        logits = policy.model(whole)[0, len(prompt) - 1 : -1].astype(mx.float32) / SAMPLING.temperature
        expected = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for place, (token, is_own) in enumerate(zip(rollout.token_ids, rollout.loss_mask, strict=True)):
            if is_own:
                assert rollout.logprobs[place] == pytest.approx(expected[place, token].item(), abs=2e-4)
            else:
                assert (rollout.logprobs[place], rollout.entropies[place]) == (0.0, 0.0)


def replay(policy: Policy, rollout: Rollout, environment: Echo) -> None:
    """Each forced token is the one that the environment's rules give, and no other token is forced."""
    due: deque[int] = deque()
    turns, start = 0, 0
    for place, (token, is_own) in enumerate(zip(rollout.token_ids, rollout.loss_mask, strict=True)):
        assert is_own == (not due)
        if not is_own:
            assert token == due.popleft()
        forced = environment.read(token)
        if is_own and token in policy.tokenizer.eos_ids and place + 1 < len(rollout.token_ids):
            due.extend((40 + turns, 50, (place + 1 - start) % 200))
            turns, start = turns + 1, place + 4
        elif place >= start:  # an answer's own tokens force nothing
            due.extend(forced)


@pytest.mark.parametrize("at_once", [1, 5, 100])
@pytest.mark.parametrize("make", [Echo, Asking, SlowlyAsking])
def test_forced_tokens_stand_where_they_belong(policy: Policy, make: type[Echo], at_once: int) -> None:
    environments: list[Echo] = []

    def made() -> Echo:
        environments.append(make())
        return environments[-1]

    rollouts = sampled(policy, made, at_once)
    check(policy, rollouts)
    assert any(0 in rollout.loss_mask for rollout in rollouts)
    by_ids = sorted(environment.seen for environment in environments)
    assert by_ids == sorted(rollout.token_ids for rollout in rollouts)  # every token was read once, in order
    for rollout in rollouts:
        assert rollout.length <= SAMPLING.max_new_tokens
        replay(policy, rollout, make())


def test_the_rollouts_do_not_depend_on_time_and_batch(policy: Policy) -> None:
    expected = sampled(policy, Asking)
    assert any((rollout.use and rollout.use.turns) == 3 for rollout in expected)
    for make, at_once in ((Asking, 1), (SlowlyAsking, 100), (SlowlyAsking, 3)):
        found = sampled(policy, make, at_once)
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]
        assert [r.loss_mask for r in found] == [r.loss_mask for r in expected]
        assert [r.stop_reason for r in found] == [r.stop_reason for r in expected]


def test_an_environment_that_does_nothing_changes_nothing(policy: Policy) -> None:
    ids = [policy.tokenizer.encode_text(text) for text in PROMPTS]
    plain = generate(policy, ids, 4, SAMPLING, random=KeyChain([1, 2]))
    found = sampled(policy, Environment)
    assert [r.token_ids for r in found] == [r.token_ids for group in plain for r in group]
    assert [r.logprobs for r in found] == [r.logprobs for group in plain for r in group]


def test_what_does_not_fit_ends_the_completion(policy: Policy) -> None:
    """Room for three tokens: the first result of two fits, the completion ends where the second is due."""
    ends = []
    for rollout in sampled(policy, Echo, limits=Limits(max_result_tokens=3)):
        ids, mask = rollout.token_ids, rollout.loss_mask
        calls = [place for place, token in enumerate(ids) if mask[place] and token % 5 == 0]
        assert len(calls) <= 2
        if len(calls) == 2:
            assert (calls[1], rollout.stop_reason) == (len(ids) - 1, StopReason.LENGTH)
            assert mask.count(0) == 2
            ends.append(rollout.length < SAMPLING.max_new_tokens)
    assert any(ends)


class Prompter(Environment):
    """Writes the next two tokens of a known completion after the first token, and every sixth after it."""

    def __init__(self, known: list[int]) -> None:
        self.known, self.read_so_far = known, 0

    def read(self, token_id: int) -> list[int]:  # noqa: ARG002
        self.read_so_far += 1
        place = self.read_so_far
        return self.known[place : place + 2][: len(self.known) - 1 - place] if place % 6 == 1 else []


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_forcing_what_the_model_would_have_written_changes_nothing(able: Policy, at_once: int) -> None:
    """Greedily, since a forced token takes no random number. With mask 1 the gradient is the plain run's."""
    greedy = Sampling(max_new_tokens=24, temperature=0.0)
    ids = [able.tokenizer.encode_text(text) for text in PROMPTS]
    plain = generate(able, ids, 2, greedy)
    known = [rollout.token_ids for group in plain for rollout in group]
    found = generate(
        able, ids, 2, greedy, limit=RowLimit(at_once),
        sessions=lambda _, row: Session(Prompter(known[row]), Limits(max_result_tokens=60)),
    )  # fmt: skip
    assert {r.stop_reason for group in plain for r in group} == {StopReason.EOS}
    for expected, rollout in zip(chain(*plain), chain(*found), strict=True):
        assert rollout.token_ids == expected.token_ids
        assert (rollout.stop_reason, rollout.text) == (expected.stop_reason, expected.text)
        assert 0 in rollout.loss_mask
        own = zip(rollout.logprobs, expected.logprobs, rollout.loss_mask, strict=True)
        assert all(one == pytest.approx(other, abs=1e-5) for one, other, is_own in own if is_own)
        rollout.loss_mask, rollout.logprobs = [1] * len(rollout.token_ids), expected.logprobs
    gradients = [gradient_of(able, ids, groups) for groups in (plain, found)]
    assert largest_difference(*gradients) < 1e-6


def gradient_of(policy: Policy, prompts: list[list[int]], rollouts: list[list[Rollout]]) -> Gradients:
    """The gradient with advantages of +1 and −1."""
    groups = []
    for prompt, group in zip(prompts, rollouts, strict=True):
        for place, rollout in enumerate(group):
            rollout.advantage = (1.0, -0.5)[place]
        groups.append(RolloutGroup(Example(messages=[], answer=""), prompt, group))
    batches = make_microbatches(groups, LOSS_TYPES["grpo"], 24, 2, has_reference=False)
    gradients, result = accumulate(policy.model, batches, objective_of("grpo", 1.0, 0.2, 0.2, 0.0))
    assert result.grad_norm > 1e-3
    return gradients


class Silent(Environment):
    """Answers every turn with nothing."""

    def respond(self, turn: Turn) -> Reply | None:  # noqa: ARG002
        return Reply()


def test_an_empty_reply_finishes(policy: Policy) -> None:
    plain, found = sampled(policy, Environment), sampled(policy, Silent)
    assert [r.token_ids for r in found] == [r.token_ids for r in plain]
    assert [r.stop_reason for r in found] == [r.stop_reason for r in plain]
    assert any(r.stop_reason is StopReason.EOS for r in found)


class Polite(Environment):
    """Answers every turn with two ids."""

    def respond(self, turn: Turn) -> Reply | None:  # noqa: ARG002
        self.calls += 1
        return Reply(token_ids=(40, 50))


@pytest.mark.parametrize(("make", "ending"), [(Polite, StopReason.LENGTH), (Silent, StopReason.EOS)])
def test_a_turn_that_ends_with_the_last_allowed_token_is_the_last(
    able: Policy, make: type[Environment], ending: StopReason
) -> None:
    """The environment is asked, since it may give a reward for that turn; nothing can be written after it."""
    ids = [able.tokenizer.encode_text(PROMPTS[0])]
    ((plain,),) = generate(able, ids, 1, Sampling(max_new_tokens=24, temperature=0.0))
    assert plain.stop_reason is StopReason.EOS
    greedy = Sampling(max_new_tokens=len(plain.token_ids), temperature=0.0)
    session = Session(make(), Limits(max_result_tokens=60))
    ((found,),) = generate(able, ids, 1, greedy, sessions=lambda *_: session)
    assert (found.token_ids, found.stop_reason) == (plain.token_ids, ending)
    assert (session.turns, session.environment.calls) == (1, int(make is Polite))
    again = Session(make(), Limits(max_result_tokens=60))
    assert [end for _, end in stream(able, ids[0], greedy, session=again)][-1] is ending


class Verbose(Environment):
    """Answers with more than there is room for."""

    def respond(self, turn: Turn) -> Reply | None:  # noqa: ARG002
        return Reply(token_ids=(1,) * 61)


def test_a_reply_that_does_not_fit_truncates(policy: Policy) -> None:
    plain, found = sampled(policy, Environment), sampled(policy, Verbose)
    assert [r.token_ids for r in found] == [r.token_ids for r in plain]
    assert {r.stop_reason for r in found} == {StopReason.LENGTH}
    assert {r.use.turns for r in found if r.use} == {1}


def test_one_turn_is_the_limit(policy: Policy) -> None:
    limits = Limits(max_turns=1, max_result_tokens=60)
    assert {r.use.turns for r in sampled(policy, Asking, limits=limits) if r.use} == {1}


class Broken(Environment):
    def respond(self, turn: Turn) -> Reply | None:  # noqa: ARG002
        raise TrainingError("the game is over", "begin anew")


def test_an_environment_that_fails_ends_the_call(policy: Policy) -> None:
    with pytest.raises(TrainingError, match="the game is over"):
        sampled(policy, Broken)


def test_streaming_gives_what_greedy_sampling_gives(policy: Policy) -> None:
    greedy = Sampling(max_new_tokens=24, temperature=0.0)
    rollouts = sampled(policy, Asking, sampling=greedy)
    for text, rollout in zip(PROMPTS, rollouts[::4], strict=True):
        ids = policy.tokenizer.encode_text(text)
        session = Session(Asking(), Limits(max_result_tokens=60))
        pieces = list(stream(policy, ids, greedy, session=session))
        assert "".join(piece for piece, _ in pieces) == rollout.text
        assert pieces[-1][1] is rollout.stop_reason


class Thanking(Environment):
    """Answers the first turn with a message."""

    def respond(self, turn: Turn) -> Reply | None:
        return Reply.of_user("And?") if turn.number == 0 else None


def test_streaming_leaves_messages_out(policy: Policy) -> None:
    greedy = Sampling(max_new_tokens=40, temperature=0.0)
    tokenizer = policy.tokenizer
    ids = tokenizer.encode_prompt([{"role": "user", "content": "What is 5 + 7?"}])

    def made() -> Session:
        return Session(Thanking(), Limits(), plain_render(tokenizer))

    [[rollout]] = generate(policy, [ids], 1, greedy, sessions=lambda *_: made())
    session = made()
    pieces = list(stream(policy, ids, greedy, session=session))
    first, second = (one["content"] for one in rollout.messages if one["role"] == "assistant")
    assert "".join(piece for piece, _ in pieces) == first + second
    assert session.messages == rollout.messages[:-1]
    assert [reason for _, reason in pieces if reason] == [rollout.stop_reason]


class Waiting(Environment):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.told = threading.Event(), threading.Event()

    def respond(self, turn: Turn) -> Reply | None:
        self.asked.set()
        assert self.told.wait(60), turn
        return None


class Keys:
    """A layer of a cache."""


def test_a_thread_that_answers_holds_no_cache(policy: Policy) -> None:
    """MLX frees graphs without locks: the last reference to an array must be the decoding thread's."""
    environment, outside, keys = Waiting(), Outside(), Keys()
    row, freed = CompletionRow(index=3, prompt=[1]), weakref.ref(keys)
    row.begin(Session(environment, Limits()))
    row.add(5, 0.0, 0.0, None)
    outside.leave(row, [keys], policy.tokenizer)
    assert environment.asked.wait(60)
    del keys
    assert freed() is not None
    outside.left.clear()
    assert freed() is None
    environment.told.set()
