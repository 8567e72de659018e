"""Prompts are encoded when they are needed, in an order that is known before any of them is."""

from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.prompt_order import DataOrder
from grpo_cli.engine.rollout.prompts import Prompt, Prompts
from grpo_cli.engine.run_dir.inputs import fingerprint
from grpo_cli.errors import DataError, ModelError
from grpo_cli.types import Example, Message
from tests.support.random_models import ByteTokenizer

ROWS = 1000


class CountingTokenizer(ByteTokenizer):
    """Counts what it encodes; refuses tools."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        self.asked.append(messages[-1]["content"])
        if any(message["role"] == "tool" for message in messages):
            raise ModelError("The model's chat template refuses a conversation of user, tool", "hint")
        return super().encode_prompt(messages, prefix)

    def encode_text(self, text: str, prefix: str = "") -> list[int]:
        return [0, *self.encode(text + prefix)]


def example(number: int, length: int = 4, role: str = "user") -> Example:
    """A prompt of `length` bytes and a line break."""
    return Example(
        messages=[{"role": role, "content": f"{number:0{length}d}"}],
        answer="1",
        columns={},
        place=f"line {number + 1} of a.jsonl",
    )


def prompts_of(examples: list[Example], **keys: Any) -> tuple[Prompts, CountingTokenizer]:
    """The prompts of a run without prefix, and the tokenizer that sees what is encoded."""
    tokenizer = CountingTokenizer()
    return Prompts(examples, tokenizer, Config(completion_prefix="", **keys)), tokenizer


def test_only_what_is_taken_is_encoded_and_only_once() -> None:
    prompts, tokenizer = prompts_of([example(number) for number in range(ROWS)], seed=3)
    order = DataOrder(ROWS, 3).take(0, 6)
    taken = prompts.take(0, 4)[0] + prompts.take(4, 2)[0]
    assert [prompt.example.place for prompt in taken] == [f"line {place + 1} of a.jsonl" for place in order]
    assert taken[0] == Prompt(prompts.examples[order[0]], [*f"{order[0]:04d}\n".encode()])
    prompts.take(0, 6)
    assert sorted(tokenizer.asked) == sorted(
        {f"{place:04d}" for place in (0, *order)}
    )  # the first: its roles


@pytest.mark.parametrize("parts", [[12], [1] * 12, [5, 7], [3, 3, 3, 3]])
def test_long_prompts_are_passed_over_wherever_a_run_is_cut(parts: list[int]) -> None:
    examples = [example(number, 4 if number % 3 else 30) for number in range(9)]
    stream = [place for place in DataOrder(9, 0).take(0, 27) if place % 3][:12]
    taken: list[str] = []
    position = 0
    for count in parts:  # each as a run that was resumed at the position would take it
        prompts, _ = prompts_of(examples, max_prompt_length=10)
        found, left_out = prompts.take(position, count)
        position += count + left_out
        taken += [prompt.example.place for prompt in found]
    assert taken == [f"line {place + 1} of a.jsonl" for place in stream]


def test_counting_looks_at_no_more_than_it_needs() -> None:
    examples = [example(number, 4 if number % 2 else 30) for number in range(ROWS)]
    prompts, tokenizer = prompts_of(examples, max_prompt_length=10)
    assert prompts.count(20) == 20
    looked_at = len(tokenizer.asked)
    assert 20 < looked_at < 100
    assert prompts.count(20) == 20 and len(tokenizer.asked) == looked_at
    assert (prompts.count(), prompts.count(ROWS), prompts.left_out) == (500, 500, 500)
    assert len(tokenizer.asked) == ROWS


def test_a_dataset_of_long_prompts_alone_is_refused() -> None:
    prompts, _ = prompts_of([example(0, 30), example(1, 20)], max_prompt_length=10)
    for ask in (prompts.count, lambda: prompts.take(0, 1)):
        with pytest.raises(DataError) as caught:
            ask()
        assert caught.value.message == "No prompt has 10 tokens or fewer; the shortest has 21"


def test_the_longest_prompt_is_estimated_from_the_longest_text() -> None:
    prompts, tokenizer = prompts_of([example(number, 4 + number % 7) for number in range(ROWS)])
    assert prompts.longest() == 11
    assert len(tokenizer.asked) == 2
    assert prompts_of([example(0), example(1, 30)], max_prompt_length=10)[0].longest() == 10


def test_a_kind_of_conversation_that_the_template_refuses_is_named_before_the_first_step() -> None:
    examples = [example(number) for number in range(ROWS)]
    with pytest.raises(ModelError) as caught:
        prompts_of([*examples, example(ROWS, role="tool")])
    assert caught.value.message.endswith("a conversation of user, tool (line 1001 of a.jsonl)")


def test_a_text_prompt_is_used_as_it_is() -> None:
    prompts, tokenizer = prompts_of([example(7)], prompt_format="text")
    assert prompts[0].ids == [0, *b"0007"]
    assert tokenizer.asked == []


def test_the_checksum_of_the_data_encodes_nothing_and_sees_every_change() -> None:
    examples = [example(0), example(1)]
    others = [
        examples[:1],
        examples[::-1],
        [example(0), Example(messages=example(1).messages, answer="2")],
        [example(0), example(2)],
    ]
    sums = [fingerprint(rows) for rows in (examples, *others)]
    assert len({*sums}) == 5
    assert fingerprint([example(0), example(1)]) == sums[0]
