"""With strip_thinking, rewards and evaluation see what follows a model's thinking."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine import setup
from grpo_cli.engine.evaluation.evaluate import Evaluation
from grpo_cli.engine.rollout.thinking import Thinking, set_answers
from grpo_cli.engine.run_dir.log import completion
from grpo_cli.rewards.request import RewardRequest
from grpo_cli.types import Example, Rollout, RolloutGroup, StopReason
from tests.support.chat_models import chat_model, tokenizer_of
from tests.support.random_models import ByteTokenizer
from tests.support.small_runs import small
from tests.support.steps import scored_groups

BLOCK = Thinking("<think>", "</think>")
QUESTION = [{"role": "user", "content": "2 + 2?"}]


@pytest.mark.parametrize(
    ("text", "is_opened", "after"),
    [
        ("<think>\n2 + 2 is 4\n</think>\n\n4", False, "4"),
        ("2 + 2 is 4\n</think>\n\n4", True, "4"),
        ("2 + 2 is 4\n</think>\n\n4", False, "4"),  # opened by the prompt in a way that is not seen
        ("<think>\n\n</think>\n\n4 ", False, "4 "),
        ("<think>2 + 2 is", False, ""),
        ("2 + 2 is", True, ""),
        ("  4\n", False, "  4\n"),
        ("", False, ""),
        ("", True, ""),
        ("Well. <think>a</think>b<think>c</think> d", False, "d"),
        ("<think>a</think>b<think>c", False, ""),
        ("<think>I close it with </think>, so </think> 4", False, "4"),
    ],
)
def test_the_text_after_the_last_block(text: str, is_opened: bool, after: str) -> None:
    assert BLOCK.after(text, is_opened) == after


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("qwen3", ("<think>", "</think>")),
        ("llama3_2", ("<think>", "</think>")),
        ("gpt_oss", ("<|channel|>analysis", "<|channel|>final<|message|>")),
    ],
)
def test_the_spellings_are_those_of_the_vocabulary(name: str, tags: tuple[str, str]) -> None:
    found = Thinking.of(chat_model(name).tokenizer)
    assert (found.start, found.end) == tags


def test_other_spellings() -> None:
    magistral = tokenizer_of(None, ["</s>", "[THINK]", "[/THINK]"], [], ["</s>"])
    assert Thinking.of(magistral) == Thinking("[THINK]", "[/THINK]")
    longcat = tokenizer_of(None, ["</s>"], ["<longcat_think>", "</longcat_think>"], ["</s>"])
    assert Thinking.of(longcat) == Thinking("<longcat_think>", "</longcat_think>")
    assert Thinking.of(ByteTokenizer()) == BLOCK  # type: ignore[arg-type]


def sampled(tokenizer: Any, text: str, **more: Any) -> Rollout:
    ids = tokenizer.encode(text)
    return Rollout(
        token_ids=ids,
        logprobs=[],
        entropies=[],
        stop_reason=StopReason.LENGTH,
        text=tokenizer.decode(ids),
        **more,
    )


def answered(name: str, text: str, prompt: list[int] | None = None, prefix: str = "", **more: Any) -> Rollout:
    tokenizer = chat_model(name).tokenizer
    rollout = sampled(tokenizer, text, **more)
    rollout.text = prefix + rollout.text
    set_answers([rollout], prompt or tokenizer.encode_prompt(QUESTION, prefix), tokenizer, prefix)
    return rollout


def test_a_prompt_that_opens_the_block() -> None:
    """Qwen3.5's template begins the thinking itself; Qwen3's writes an empty block if it is turned off."""
    tokenizer = chat_model("qwen3_5").tokenizer
    opened = tokenizer.encode_prompt(QUESTION)
    assert tokenizer.spell(opened).endswith("<|im_start|>assistant\n<think>\n")
    assert answered("qwen3_5", "it is 4", opened).seen_text == ""
    assert answered("qwen3_5", "it is 4\n</think>\n\n4", opened).seen_text == "4"
    tokenizer = chat_model("qwen3").tokenizer
    tokenizer.template_keywords = {"enable_thinking": False}
    closed = tokenizer.encode_prompt(QUESTION)
    assert tokenizer.spell(closed).endswith("<think>\n\n</think>\n\n")
    assert answered("qwen3", "it is 4", closed).seen_text == "it is 4"


def test_a_question_about_the_tags_opens_nothing() -> None:
    tokenizer = chat_model("qwen3").tokenizer
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "What does <think> mean?"}])
    assert answered("qwen3", "it is 4", prompt).seen_text == "it is 4"


def test_a_block_that_the_prefix_opens() -> None:
    assert answered("qwen3", "it is 4</think>4", prefix="<think>\n").seen_text == "4"
    assert answered("qwen3", "it is 4", prefix="<think>\n").seen_text == ""


def test_the_channels_of_gpt_oss() -> None:
    text = "<|channel|>analysis<|message|>2 + 2<|end|><|start|>assistant<|channel|>final<|message|>4"
    rollout = answered("gpt_oss", text)
    assert rollout.text == "analysis2 + 2assistantfinal4"
    assert rollout.seen_text == "4"
    assert answered("gpt_oss", text.partition("<|end|>")[0]).seen_text == ""
    assert answered("gpt_oss", "just a text").seen_text == "just a text"


def test_rewards_get_the_answer_and_all_token_ids_of_the_whole() -> None:
    turns = [
        {"role": "assistant", "content": "<think>look</think>\n\nlookup()"},
        {"role": "tool", "content": "<think>4</think>4"},
        {"role": "assistant", "content": "<think>so 5 or 4</think>4"},
    ]
    whole = "".join(turn["content"] for turn in turns)
    rollout = answered("qwen3", whole, messages=turns)
    example = Example(messages=QUESTION, answer="4")
    group = RolloutGroup(example, [1], [rollout])
    (sample,) = RewardRequest.of([group]).samples
    assert [message["content"] for message in sample.messages] == ["lookup()", turns[1]["content"], "4"]
    assert (sample.text, sample.token_ids) == ("4", chat_model("qwen3").tokenizer.encode(whole))
    assert rollout.final_text == "4"
    assert rollout.messages == turns  # kept for the log
    assert completion(1, group, rollout)["completion"] == whole
    assert completion(1, group, rollout)["answer_text"] == "4"
    rollout.answer_text = None
    assert RewardRequest.of([group]).samples[0].text == whole


@pytest.mark.parametrize(("strip", "rate"), [(False, 0.0), (True, 1.0)])
def test_accuracy_is_that_of_the_answer(strip: bool, rate: float) -> None:
    tokenizer = chat_model("qwen3").tokenizer
    rollout = sampled(tokenizer, "<think>perhaps <answer>5</answer></think>the answer is 4")
    if strip:
        set_answers([rollout], tokenizer.encode_prompt(QUESTION), tokenizer, "")
    group = RolloutGroup(Example(messages=QUESTION, answer="4"), [1], [rollout])
    assert Evaluation([group], 1.0).accuracy == rate


@pytest.mark.parametrize("strip", [False, True])
def test_a_run_strips_only_if_it_is_told_to(tmp_path: Path, strip: bool) -> None:
    run = setup.prepare(small(tmp_path, strip_thinking=strip, completion_prefix="<think>"))
    rollouts = [rollout for group in scored_groups(run, 0) for rollout in group.rollouts]
    assert all(rollout.text.startswith("<think>") for rollout in rollouts)
    assert {rollout.answer_text for rollout in rollouts} == ({""} if strip else {None})
