"""What a reward is asked: some completions of a batch, as TRL's keywords.

    request = RewardRequest.of(groups)
    function(**request.arguments(function, Notes(len(request.samples))))

    prompts, completions            of a text prompt texts that also answer as messages (chat_text.py)
    answer                          the right answers, normalized: "5" of GSM8K's "2 + 3 = 5\n#### 5"
    <column>                        every column of the dataset under its own name, as it is there
    raw_<column>                    the same of a column whose name is one of these keywords, as `answer`
    completion_ids, prompt_ids      token ids
    trainer_state                   global_step, max_steps, epoch
    log_metric(name, value)         a number for the step's line; several are averaged
    log_extra(column, values)       a value for each completion, for completions.jsonl

A function without `**kwargs` is given those it names.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from grpo_cli.rewards.chat_text import ChatText
from grpo_cli.rewards.notes import Notes
from grpo_cli.types import NOT_TRAINING, Example, Message, RolloutGroup, TrainerState

Chat = ChatText | list[Message]


class Sample(NamedTuple):
    """One completion, and what it completes."""

    example: Example
    prompt_ids: list[int]
    text: str
    token_ids: list[int]


@dataclass(frozen=True)
class RewardRequest:
    """The completions of a batch, or a part of them."""

    samples: list[Sample]
    state: TrainerState = NOT_TRAINING
    first: int = 0  # where the part begins in its batch
    total: int = 0  # completions of the batch

    @staticmethod
    def of(groups: list[RolloutGroup], state: TrainerState = NOT_TRAINING) -> "RewardRequest":
        """All completions of a batch, in order."""
        samples = [
            Sample(group.example, group.prompt_ids, rollout.text, rollout.token_ids)
            for group in groups
            for rollout in group.rollouts
        ]
        return RewardRequest(samples, state, 0, len(samples))

    def part(self, start: int, stop: int) -> "RewardRequest":
        """The completions from `start` to before `stop`, which know their places in the batch."""
        return replace(self, samples=self.samples[start:stop], first=self.first + start)

    @property
    def columns(self) -> list[str]:
        """The dataset's columns."""
        return list(dict.fromkeys(name for sample in self.samples for name in sample.example.columns))

    def arguments(self, function: Callable[..., Any], notes: Notes) -> dict[str, Any]:
        """The keywords that a function takes, built anew: what it does to its lists stays its own."""
        ours = {
            "prompts": [prompt_of(sample.example) for sample in self.samples],
            "completions": [completion_of(sample) for sample in self.samples],
            "answer": [sample.example.answer for sample in self.samples],
            "completion_ids": [list(sample.token_ids) for sample in self.samples],
            "prompt_ids": [list(sample.prompt_ids) for sample in self.samples],
            "trainer_state": self.state,
            "log_metric": notes.log_metric,
            "log_extra": notes.log_extra,
        }
        columns = {(f"raw_{name}" if name in ours else name): self.column(name) for name in self.columns}
        return taken(function, {**columns, **ours})

    def column(self, name: str) -> list[Any]:
        """A column's value for each completion."""
        return copy.deepcopy([sample.example.columns.get(name) for sample in self.samples])


def prompt_of(example: Example) -> Chat:
    """A prompt in the form the dataset has it in: a text, or messages."""
    if example.prompt_text is not None:
        return ChatText(example.prompt_text, example.messages)
    return [dict(message) for message in example.messages]


def note_on_answer(example: Example) -> str:
    """What a reward may mistake of a column that is called `answer`, if its text is another than it holds."""
    raw = example.columns.get("answer")
    if raw is None or raw == example.answer:
        return ""
    return f"`answer` is the normalized text, {example.answer[:40]!r}; `raw_answer` is what the column holds"


def completion_of(sample: Sample) -> Chat:
    """A completion in the form of its prompt."""
    messages = [{"role": "assistant", "content": sample.text}]
    return messages if sample.example.prompt_text is None else ChatText(sample.text, messages)


def taken(function: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that a function takes; all where it does not say, or takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some callables written in C
        return keywords
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}
