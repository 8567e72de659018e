"""The input of a reward call: completions of a batch, as TRL's keyword arguments.

    request = RewardRequest.of(groups)
    function(**request.arguments(function, Notes(len(request.samples))))

    prompts, completions            for a text prompt: texts that also act as messages (chat_text.py)
    answer                          the right answers, normalized: "5" of GSM8K's "2 + 3 = 5\n#### 5"
    <column>                        every column of the dataset under its own name, unchanged
    raw_<column>                    a column whose name is one of these keywords, such as `answer`
    completion_ids, prompt_ids      token ids
    environment_reward              of the environment, or None
    trainer_state                   global_step, max_steps, epoch
    log_metric(name, value)         a number for the step's line; several are averaged
    log_extra(column, values)       a value for each completion, for completions.jsonl

A function without `**kwargs` gets only the arguments it names.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from grpo_cli.rewards.chat_text import ChatText
from grpo_cli.rewards.notes import Notes
from grpo_cli.types import NOT_TRAINING, Example, Message, Rollout, RolloutGroup, TrainerState

Chat = ChatText | list[Message]


class Sample(NamedTuple):
    """One completion with its prompt."""

    example: Example
    prompt_ids: list[int]
    text: str
    token_ids: list[int]
    messages: list[Message] = []  # noqa: RUF012  (turns and their answers; empty: one turn)
    environment_reward: float | None = None  # the environment's own


@dataclass(frozen=True)
class RewardRequest:
    """The completions of a batch, or part of them."""

    samples: list[Sample]
    state: TrainerState = NOT_TRAINING
    first: int = 0  # index of the first completion in the batch
    total: int = 0  # completions of the batch

    @staticmethod
    def of(groups: list[RolloutGroup], state: TrainerState = NOT_TRAINING) -> "RewardRequest":
        """All completions of a batch, in order."""
        samples = [
            Sample(group.example, group.prompt_ids, *seen_of(rollout))
            for group in groups
            for rollout in group.rollouts
        ]
        return RewardRequest(samples, state, 0, len(samples))

    def part(self, start: int, stop: int) -> "RewardRequest":
        """The completions from `start` up to `stop`; they keep their positions in the batch."""
        return replace(self, samples=self.samples[start:stop], first=self.first + start)

    @property
    def columns(self) -> list[str]:
        """Names of the dataset's columns."""
        return list(dict.fromkeys(name for sample in self.samples for name in sample.example.columns))

    def arguments(self, function: Callable[..., Any], notes: Notes) -> dict[str, Any]:
        """The function's keyword arguments, built anew so that it may change its lists."""
        ours = {
            "prompts": [prompt_of(sample.example) for sample in self.samples],
            "completions": [completion_of(sample) for sample in self.samples],
            "answer": [sample.example.answer for sample in self.samples],
            "completion_ids": [list(sample.token_ids) for sample in self.samples],
            "prompt_ids": [list(sample.prompt_ids) for sample in self.samples],
            "environment_reward": [sample.environment_reward for sample in self.samples],
            "trainer_state": self.state,
            "log_metric": notes.log_metric,
            "log_extra": notes.log_extra,
        }
        columns = {(f"raw_{name}" if name in ours else name): self.column(name) for name in self.columns}
        return taken(function, {**columns, **ours})

    def column(self, name: str) -> list[Any]:
        """A column's value, one per completion."""
        return copy.deepcopy([sample.example.columns.get(name) for sample in self.samples])


def seen_of(rollout: Rollout) -> tuple[str, list[int], list[Message], float | None]:
    """Text, token ids, messages and the environment's reward of a rollout."""
    own_reward = rollout.use.reward if rollout.use else None
    return rollout.seen_text, rollout.token_ids, rollout.seen_messages, own_reward


def prompt_of(example: Example) -> Chat:
    """A prompt in the dataset's format: text or messages."""
    if example.prompt_text is not None:
        return ChatText(example.prompt_text, example.messages)
    return [dict(message) for message in example.messages]


def note_on_answer(example: Example) -> str:
    """A note for errors if the column `answer` holds something other than the normalized answer."""
    raw = example.columns.get("answer")
    if raw is None or raw == example.answer:
        return ""
    return f"`answer` is the normalized text, {example.answer[:40]!r}; `raw_answer` is what the column holds"


def completion_of(sample: Sample) -> Chat:
    """A completion in the format of its prompt: the model's turns and their answers, as TRL passes them."""
    messages = copy.deepcopy(sample.messages) or [{"role": "assistant", "content": sample.text}]
    return messages if sample.example.prompt_text is None else ChatText(sample.text, messages)


def taken(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a function accepts; all if its signature is unknown or has `**kwargs`."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C
        return keywords
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}
