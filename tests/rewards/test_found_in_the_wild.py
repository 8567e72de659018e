"""Rewards as people write them, for texts and for lists of messages: each works unchanged on a text prompt.

In the manner of TRL's documentation, Unsloth's notebooks, the GSM8K gist, MLX-GRPO, open-r1 and mlx-lm-lora.
"""

# ruff: noqa: ARG001, SIM401

import copy
import json
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from grpo_cli.rewards.call import call
from grpo_cli.rewards.chat_text import ChatText
from grpo_cli.rewards.notes import Notes
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason

TEXTS = ["<think>9 + 9</think>\n<answer>18</answer>", "The sum is 18.", ""]
QUESTION = "What is 9 + 9?"
ROW = {"problem": QUESTION, "solution": "$18$", "answer": "18", "level": 3, "choices": ["17", "18"]}
Function = Callable[..., list[float]]

TEXT_STYLE: dict[Function, list[float]] = {}
MESSAGE_STYLE: dict[Function, list[float]] = {}
EITHER: dict[Function, list[float]] = {}


def expects(table: dict[Function, list[float]], values: list[float]) -> Callable[[Function], Function]:
    def note(function: Function) -> Function:
        table[function] = values
        return function

    return note


def request(is_text: bool, texts: list[str] = TEXTS) -> RewardRequest:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    example = Example(messages=messages, answer="18", columns=ROW, prompt_text=QUESTION if is_text else None)
    rollouts = [
        Rollout(token_ids=[5] * len(text), logprobs=[], entropies=[], stop_reason=StopReason.EOS, text=text)
        for text in texts
    ]
    return RewardRequest.of([RolloutGroup(example, [1, 2, 3], rollouts)])


# --- completions are texts ----------------------------------------------------------------------------


@expects(TEXT_STYLE, [-20.0, -6.0, -20.0])
def trl_length(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [-abs(20 - len(completion)) for completion in completions]


@expects(TEXT_STYLE, [1.0, 0.0, 0.0])
def trl_format(completions, **kwargs):  # type: ignore[no-untyped-def]
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>$"
    return [1.0 if re.match(pattern, content, re.DOTALL) else 0.0 for content in completions]


@expects(TEXT_STYLE, [0.0, 1.0, 0.0])
def first_letter(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [1.0 if completion[:1].isupper() else 0.0 for completion in completions]


@expects(TEXT_STYLE, [0.0, 1.0, 0.0])
def first_and_last_character(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [1.0 if c and c[0] == "T" and c[0].isupper() and c[-1] == "." else 0.0 for c in completions]


@expects(TEXT_STYLE, [19.0, 11.0, 0.0])
def unique_characters(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(set(completion))) for completion in completions]


@expects(TEXT_STYLE, [1.0, 1.0, 0.0])
def mlx_lm_lora(prompts, completions, answer, types=None):  # type: ignore[no-untyped-def]
    return [1.0 if a in r else 0.0 for r, a in zip(completions, answer, strict=True)]


@expects(TEXT_STYLE, [1.0, 1.0, 0.0])
def prompt_is_a_text(prompts, completions, **kwargs):  # type: ignore[no-untyped-def]
    both = [p + "\n" + c for p, c in zip(prompts, completions, strict=True)]
    return [1.0 if re.search(r"9 \+ 9\?\n.*18", text, re.DOTALL) else 0.0 for text in both]


@expects(TEXT_STYLE, [4.0, 4.0, 0.0])
def words(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(completion.split())) for completion in completions]


# --- completions are lists of messages ------------------------------------------------------------------


@expects(MESSAGE_STYLE, [2.0, 0.0, 0.0])
def gist_correctness(prompts, completions, answer, **kwargs):  # type: ignore[no-untyped-def]
    responses = [completion[0]["content"] for completion in completions]
    assert prompts[0][-1]["content"] == QUESTION
    found = [r.split("<answer>")[-1].split("</answer>")[0].strip() for r in responses]
    return [2.0 if r == a else 0.0 for r, a in zip(found, answer, strict=True)]


@expects(MESSAGE_STYLE, [1.0, 1.0, 0.0])
def open_r1(completions, solution, **kwargs):  # type: ignore[no-untyped-def]
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if gold.strip("$") in text else 0.0 for text, gold in zip(contents, solution, strict=True)]


@expects(MESSAGE_STYLE, [40.0, 14.0, 0.0])
def last_message(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(completion[-1]["content"])) for completion in completions]


@expects(MESSAGE_STYLE, [1.0, 1.0, 1.0])
def roles(prompts, completions, **kwargs):  # type: ignore[no-untyped-def]
    asked = all(p[0]["role"] == "system" and p[-1]["role"] == "user" for p in prompts)
    return [1.0 if asked and c[0]["role"] == "assistant" else 0.0 for c in completions]


@expects(MESSAGE_STYLE, [40.0, 14.0, 0.0])
def careful_get(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(c[0].get("content", "none at all"))) for c in completions]


@expects(MESSAGE_STYLE, [40.0, 14.0, 0.0])
def asks_for_the_key(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(c[0]["content"] if "content" in c[0] else "none at all")) for c in completions]


@expects(MESSAGE_STYLE, [40.0, 14.0, 0.0])
def unpacks(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len({**completion[0], "seen": True}["content"])) for completion in completions]


# --- whichever comes --------------------------------------------------------------------------------------


@expects(EITHER, [40.0, 14.0, 0.0])
def lists_first(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(c[0]["content"] if isinstance(c, list) else c)) for c in completions]


@expects(EITHER, [40.0, 14.0, 0.0])
def texts_first(completions, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(c if isinstance(c, str) else c[0]["content"])) for c in completions]


@expects(EITHER, [3.0, 3.0, 3.0])
def columns(completions, problem, level, raw_answer, choices, **kwargs):  # type: ignore[no-untyped-def]
    assert problem == [QUESTION] * 3
    assert raw_answer == ["18"] * 3
    assert choices == [["17", "18"]] * 3
    return [float(value) for value in level]


@expects(EITHER, [40.0, 14.0, 0.0])
def token_counts(completion_ids, **kwargs):  # type: ignore[no-untyped-def]
    return [float(len(ids)) for ids in completion_ids]


@expects(EITHER, [0.0, 0.0, 0.0])
def two_arguments(prompts, completions):  # type: ignore[no-untyped-def]
    return [0.0] * len(completions)


def names(function: Function) -> str:
    return function.__name__


@pytest.mark.parametrize("function", [*TEXT_STYLE, *MESSAGE_STYLE, *EITHER], ids=names)
def test_it_works_on_a_text_prompt(function: Function) -> None:
    assert call("it", function, request(True)).values == (TEXT_STYLE | MESSAGE_STYLE | EITHER)[function]


@pytest.mark.parametrize("function", [*MESSAGE_STYLE, *EITHER], ids=names)
def test_it_works_on_messages(function: Function) -> None:
    assert call("it", function, request(False)).values == (MESSAGE_STYLE | EITHER)[function]


def test_prompts_of_messages_keep_lists() -> None:
    arguments = request(False).arguments(words, Notes(3))
    assert arguments["completions"] == [[{"role": "assistant", "content": text}] for text in TEXTS]
    assert type(arguments["completions"][0]) is list
    assert type(arguments["prompts"][0]) is list


@pytest.mark.parametrize("text", ["", "a", "ab", "höher\n", "<answer>18</answer>"])
def test_a_chat_text_is_a_text_in_every_way_but_its_messages(text: str) -> None:
    chat = ChatText(text, [{"role": "assistant", "content": text}])
    assert (chat, hash(chat), len(chat), list(chat), json.dumps(chat)) == (
        text, hash(text), len(text), list(text), json.dumps(text),
    )  # fmt: skip
    assert [chat[i] for i in range(len(text))] == list(text)
    assert [chat[i - len(text)] for i in range(len(text))] == list(text)
    assert chat[1:] + chat[::-1] == text[1:] + text[::-1]
    assert re.sub("[aä]", "b", chat) == re.sub("[aä]", "b", text)
    for again in (copy.deepcopy(chat), pickle.loads(pickle.dumps(chat)), chat):
        assert again == text
        assert dict(again[0].items()) == {"role": "assistant", "content": text}
        assert not isinstance(again, list | Mapping)
    with pytest.raises(IndexError):
        chat[max(len(text), 1)]


def test_messages_that_a_text_cannot_be_say_how_to_get_them() -> None:
    def walks(completions: Any, **kwargs: Any) -> list[float]:
        return [float(len([m["content"] for m in completion])) for completion in completions]

    with pytest.raises(Exception, match="string indices must be integers") as caught:
        call("walks", walks, request(True))
    assert 'supports `completion[0]["content"]`' in caught.value.hint  # type: ignore[attr-defined]
    assert call("walks", walks, request(False)).values == [1.0, 1.0, 1.0]
