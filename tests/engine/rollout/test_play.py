"""A rollout of one's own: by hand and by a model it has the tokens, masks and rewards of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.play import Answered, Play, TurnWritten
from grpo_cli.engine.rollout.prompts import encode
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.environments.by_hand import tooling_without_model
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.session import Limits, Session
from grpo_cli.environments.table import load_environments
from grpo_cli.models.load import Policy, load_policy
from grpo_cli.types import Rollout, StopReason
from tests.support.environments import Asking

GREEDY = Sampling(max_new_tokens=40, temperature=0.0)
PLAIN = {"system_prompt": "", "completion_prefix": ""}
TOOLS = '''
def half(number: int) -> float:
    """Half of a number.

    Args:
        number: the number
    """
    return number / 2 if number else 1 / 0
'''


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny")


def started(policy: Policy, name: str, row: int, events: list[Any]) -> tuple[Play, Rollout]:
    """A play of an embedded environment, and the rollout that training samples greedily."""
    config = Config(environment=name, **PLAIN)
    environments = load_environments([name])
    assert environments is not None
    example = environments.default.examples("train", row + 1, 0)[row]
    tooling = tooling_of(config, policy.tokenizer, environments)
    prompt = encode(example, policy.tokenizer, config, tooling)
    make = tooling.make_session
    [[rollout]] = generate(policy, [prompt.ids], 1, GREEDY, sessions=lambda *_: make(prompt.example))
    session = make(prompt.example)
    assert session is not None
    return Play(policy.tokenizer, prompt, session, GREEDY, tell=events.append), rollout


def same(played: Rollout, sampled: Rollout) -> None:
    for name in ("token_ids", "loss_mask", "stop_reason", "text", "own_text", "messages"):
        assert getattr(played, name) == getattr(sampled, name), name
    assert played.use is not None
    assert sampled.use is not None
    for name in ("turns", "calls", "failures", "reward"):
        assert getattr(played.use, name) == getattr(sampled.use, name), name


@pytest.mark.parametrize("name", ["guess", "search", "calculator"])
@pytest.mark.parametrize("row", range(3))
def test_a_model_plays_as_in_training(policy: Policy, name: str, row: int) -> None:
    events: list[Any] = []
    play, sampled = started(policy, name, row, events)
    play.by_model(policy)
    same(play.rollout(), sampled)
    spans = [span for event in events for span in event.spans]
    assert [token for span in spans for token in span.token_ids] == sampled.token_ids
    assert [span.mask for span in spans for _ in span.token_ids] == sampled.loss_mask
    assert play.rollout().logprobs == pytest.approx(sampled.logprobs, abs=1e-4)


@pytest.mark.parametrize("row", range(3))
def test_typed_turns_are_those_of_training(policy: Policy, row: int) -> None:
    play, sampled = started(policy, "guess", row, [])
    turns = [one["content"] for one in sampled.messages if one["role"] == "assistant"]
    play.by_hand(turns or [sampled.text])
    same(play.rollout(), sampled)


def typed(policy: Policy, name: str, *turns: str, **keys: Any) -> tuple[Rollout, list[Any]]:
    config = Config(environment=name, **PLAIN, **keys)
    environments = load_environments([name])
    assert environments is not None
    [example] = environments.default.examples("train", 1, 0)
    tooling = tooling_without_model(config, policy.tokenizer, environments)
    prompt = encode(example, policy.tokenizer, config, tooling)
    session = tooling.make_session(prompt.example)
    assert session is not None
    events: list[Any] = []
    play = Play(policy.tokenizer, prompt, session, Sampling.for_training(config), tell=events.append)
    play.by_hand(turns)
    return play.rollout(), events


def test_what_a_person_sees_of_a_game(policy: Policy) -> None:
    rollout, events = typed(policy, "guess", "9", "99")
    spell, special = policy.tokenizer.spell, policy.tokenizer
    assert [type(event) for event in events] == [TurnWritten, Answered, TurnWritten, Answered]
    assert [span.text for span in events[0].spans] == ["9<|assistant_end|>"]
    assert [span.text for span in events[1].spans] == ["<|user_start|>lower<|user_end|><|assistant_start|>"]
    assert events[1].messages == [{"role": "user", "content": "lower"}]
    assert (events[0].number, events[2].number) == (1, 2)
    assert spell(rollout.token_ids) == "".join(span.text for event in events for span in event.spans)
    assert rollout.stop_reason is StopReason.LENGTH  # no further turn was typed
    assert special.decode(rollout.token_ids) == "9lower99lower"


def test_an_environment_that_writes_into_a_line_lets_the_turn_go_on(policy: Policy) -> None:
    rollout, events = typed(policy, "search", "3+2=", ", so <answer>12</answer>", "never read")
    [written] = events
    assert [span.mask for span in written.spans] == [1, 0, 1]
    assert rollout.text == "3+2=12, so <answer>12</answer>"
    assert rollout.stop_reason is StopReason.EOS
    ended, _ = typed(policy, "search", "3+2=", "", "never read")
    assert (ended.text, ended.stop_reason) == ("3+2=12", StopReason.EOS)


def test_limits_hold_for_typed_turns(policy: Policy) -> None:
    few, _ = typed(policy, "guess", "9" * 40, max_new_tokens=5)
    assert (sum(few.loss_mask), few.stop_reason) == (5, StopReason.LENGTH)
    two, events = typed(policy, "guess", "9", "9", "9", max_turns=2)
    assert two.use is not None
    assert (two.use.turns, two.stop_reason, len(events)) == (2, StopReason.EOS, 3)
    narrow, events = typed(policy, "guess", "9", "9", max_result_tokens=2)
    assert (narrow.stop_reason, len(events), set(narrow.loss_mask)) == (StopReason.LENGTH, 1, {1})


def test_calls_with_results_times_and_places(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "halves.py").write_text(TOOLS)
    config = Config(**PLAIN)
    tooling = tooling_without_model(config, policy.tokenizer, None, [f"{tmp_path}/halves.py:half"])
    session = tooling.make_session(None)  # type: ignore[arg-type]
    assert session is not None
    events: list[Any] = []
    from grpo_cli.engine.rollout.prompts import Prompt

    prompt = Prompt(None, [1])  # type: ignore[arg-type]
    play = Play(policy.tokenizer, prompt, session, Sampling.for_training(config), tell=events.append)
    play.by_hand(["/half 3", "/half 0", "done"])
    first, second = (event for event in events if isinstance(event, Answered))
    [(call, observation)] = first.calls
    assert (call.name, call.arguments, observation.text, observation.place) == (
        "half",
        {"number": 3},
        "1.5",
        "",
    )
    [(_, failed)] = second.calls
    assert failed.failed
    assert failed.place == "halves.py, line 8"
    assert first.seconds >= observation.seconds >= 0
    use = play.rollout().use
    assert use is not None
    assert (use.turns, use.calls, use.failures) == (3, 2, 1)


def test_answers_of_ids_are_reported(policy: Policy) -> None:
    from grpo_cli.engine.rollout.prompts import Prompt

    events: list[Any] = []
    session = Session(Asking(), Limits(max_result_tokens=60))
    prompt = Prompt(None, [1])  # type: ignore[arg-type]
    play = Play(policy.tokenizer, prompt, session, GREEDY, tell=events.append)

    def turns() -> Iterator[str]:
        while True:
            yield "."

    play.by_hand(turns())
    answers = [event for event in events if isinstance(event, Answered)]
    assert [answer.spans[0].token_ids[:2] for answer in answers] == [[40, 50], [41, 50]]
    assert [answer.messages for answer in answers] == [[], []]
