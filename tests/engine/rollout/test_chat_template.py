"""The configuration's keywords reach the chat template, in every command that makes prompts."""

import pytest
from typer.testing import CliRunner

from grpo_cli.cli.main import app
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.rollout.chat_template import MERGED, set_up_template
from grpo_cli.engine.setup import prepare
from grpo_cli.types import Example
from tests.support.chat_models import GEMMA, TEMPLATES, chat_model, tokenizer_of

QWEN = (TEMPLATES / "qwen2_5.jinja").read_text()
UNREAD = "chat_template_kwargs: the model's chat template does not read the keyword 'enable_thinking'"
TINY = ["--set", "chat_template_kwargs.enable_thinking=false", "--model", "tiny"]


def test_keywords_are_given_to_the_tokenizer_and_unread_ones_are_told() -> None:
    tokenizer = chat_model("qwen3").tokenizer
    keywords = {"enable_thinking": False, "effort": "low"}
    told = set_up_template(tokenizer, Config(chat_template_kwargs=keywords), [])
    assert tokenizer.template_keywords == keywords
    assert told == ["chat_template_kwargs: the model's chat template does not read the keyword 'effort'"]


def test_texts_to_continue_have_no_template() -> None:
    config = Config(chat_template_kwargs={"effort": "low"}, prompt_format="text")
    assert set_up_template(chat_model("qwen3").tokenizer, config, []) == []


def test_training_gives_them_before_the_first_prompt() -> None:
    config = Config(model_name="tiny", dataset="arithmetic", chat_template_kwargs={"enable_thinking": False})
    config = config.model_copy(update={"max_steps": 1, "eval_steps": 0, "max_new_tokens": 8})
    heard: list[events.Event] = []
    run = prepare(config, heard.append)
    assert run.policy.tokenizer.template_keywords == {"enable_thinking": False}
    assert events.Notice(UNREAD) in heard


@pytest.mark.parametrize(
    "command",
    [
        ["eval", *TINY, "--dataset", "arithmetic", "--samples", "1", "--set", "eval_max_new_tokens=2"],
        ["generate", *TINY, "--prompt", "What is 1 + 1?", "--max-tokens", "2"],
    ],
    ids=["eval", "generate"],
)
def test_evaluation_and_answers_tell_it_too(command: list[str]) -> None:
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr.count(f"! {UNREAD}")) == (0, 1), result.output


@pytest.mark.parametrize(
    ("template", "first", "told"),
    [
        (GEMMA, {"role": "system", "content": "a"}, [MERGED]),
        (GEMMA, {"role": "user", "content": "a"}, []),
        (QWEN, {"role": "system", "content": "a"}, []),
    ],
)
def test_a_merged_system_message_is_told(template: str, first: dict[str, str], told: list[str]) -> None:
    tokenizer = tokenizer_of(template, ["<start_of_turn>", "<end_of_turn>"], [], ["<end_of_turn>"])
    example = Example(messages=[first, {"role": "user", "content": "b"}], answer="")
    assert set_up_template(tokenizer, Config(), [example]) == told
