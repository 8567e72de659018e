"""Environments of a configuration: their first words, their sessions, and their tools."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.make_environment import with_text
from grpo_cli.environments.protocol import Turn
from grpo_cli.environments.session import Session
from grpo_cli.environments.table import load_environments
from grpo_cli.environments.tooling import Tooling
from grpo_cli.errors import ModelError, ToolError
from grpo_cli.models.load import load_policy
from grpo_cli.types import Example
from tests.support.chat_models import chat_model

WORDLE = '''
class Wordle:
    def reset(self, word: str) -> str:
        self.word, self.tries = word, 0
        return f" It has {len(word)} letters."

    def guess(self, word: str) -> str:
        """Guess the word.

        Args:
            word: a word
        """
        self.tries += 1
        return "right" if word == self.word else "wrong"

    def get_reward(self) -> float:
        return 1.0 / self.tries if self.tries else 0.0
'''
TALK = """
import itertools
count = itertools.count()
class Talk:
    def reset(self) -> str | None:
        return START
    def respond(self, text: str) -> str | None:
        return None if text == "bye" else f"you said {text}"
"""


def made(tokenizer: Any, entry: str, **keys: Any) -> Tooling:
    config = Config(environment=entry, **keys)
    return tooling_of(config, tokenizer, load_environments(config.environments))


def turn(text: str, number: int = 0) -> Turn:
    return Turn(number=number, token_ids=[], text=text)


def example(**columns: Any) -> Example:
    return Example(messages=[{"role": "user", "content": "Find it."}], answer="", columns=columns)


def session_of(tooling: Tooling, one: Example) -> Session:
    session = tooling.make_session(tooling.begin(one))
    assert session is not None
    return session


def test_an_environment_with_tools(tmp_path: Path) -> None:
    (tmp_path / "wordle.py").write_text(WORDLE)
    tokenizer = chat_model("qwen2_5").tokenizer
    tooling = made(tokenizer, f"{tmp_path}/wordle.py:Wordle")
    (schema,) = tooling.schemas
    assert schema["function"]["name"] == "guess"
    begun = tooling.begin(example(word="house"))
    assert begun.messages == [{"role": "user", "content": "Find it. It has 5 letters."}]
    session = session_of(tooling, example(word="house"))
    call = '<tool_call>\n{"name": "guess", "arguments": {"word": "mouse"}}\n</tool_call>'
    asked = turn(call)
    reply = session.respond(asked)
    assert reply is not None
    assert [message["content"] for message in reply.messages] == ["wrong"]
    text = tokenizer.spell(session.ids_of(reply, asked, ended=True))
    assert "<tool_response>\nwrong\n</tool_response>" in text
    assert text.endswith("<|im_start|>assistant\n")
    again = session.respond(turn(call.replace("mouse", "house"), 1))
    assert again is not None
    assert again.messages[0]["content"] == "right"
    assert session.respond(turn("done", 2)) is None
    use = session.use()
    assert (use.calls, use.failures, use.turns, use.reward) == (2, 0, 2, 0.5)
    assert session_of(tooling, example(word="house")).use().reward == 0.0  # an instance of its own


def test_an_environment_that_talks_with_nanochat(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK.replace("START", "None"))
    tokenizer: Any = load_policy("tiny").tokenizer
    session = session_of(made(tokenizer, f"{tmp_path}/talk.py:Talk"), example())
    asked = turn("12")
    reply = session.respond(asked)
    assert reply is not None
    ids = session.ids_of(reply, asked, ended=False)
    assert tokenizer.spell(ids) == (
        "<|assistant_end|><|user_start|>you said 12<|user_end|><|assistant_start|>"
    )
    assert session.respond(turn("bye", 1)) is None


def test_resets_of_one_example_must_be_equal(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK.replace("START", 'f"number {next(count)}"'))
    tooling = made(load_policy("tiny").tokenizer, f"{tmp_path}/talk.py:Talk")
    with pytest.raises(ToolError, match="returned different texts for one example: 'number 1'"):
        session_of(tooling, example())


def test_an_environment_cannot_change_its_example(tmp_path: Path) -> None:
    code = """
class Deck:
    def reset(self, cards: list) -> str:
        return f" Your card is {cards.pop()}."
    def respond(self, text: str) -> None:
        return None
"""
    (tmp_path / "deck.py").write_text(code)
    tooling = made(chat_model("qwen2_5").tokenizer, f"{tmp_path}/deck.py:Deck")
    one = tooling.begin(example(cards=[1, 2, 3]))
    assert one.messages[-1]["content"] == "Find it. Your card is 3."
    assert tooling.make_session(one) and tooling.make_session(one)
    assert one.columns == {"cards": [1, 2, 3]}


def test_a_model_without_tool_syntax_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wordle.py").write_text(WORDLE)
    with pytest.raises(ModelError):
        made(load_policy("tiny").tokenizer, f"{tmp_path}/wordle.py:Wordle")


def test_a_column_chooses_among_the_configured_and_the_embedded(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK.replace("START", '" Talk."'))
    tooling = made(load_policy("tiny").tokenizer, f"guess, {tmp_path}/talk.py:Talk")
    talking = tooling.begin(example(environment="Talk"))
    assert talking.messages[-1]["content"] == "Find it. Talk."
    assert tooling.begin(example(answer=3)).messages[-1]["content"] == "Find it."
    with pytest.raises(ToolError, match="Unknown environment in the column `environment`: gues"):
        tooling.begin(example(environment="gues"))


def test_each_environment_has_its_own_tools_and_dialogue(tmp_path: Path) -> None:
    """Two with a tool of the same name, and one without: a prompt shows its own environment's tools alone."""
    (tmp_path / "wordle.py").write_text(WORDLE)
    (tmp_path / "other.py").write_text(
        WORDLE.replace("class Wordle", "class Other").replace("Guess the word.", "Guess another word.")
    )
    tokenizer = chat_model("qwen2_5").tokenizer
    tooling = made(tokenizer, f"{tmp_path}/wordle.py:Wordle, {tmp_path}/other.py:Other")
    shown = {
        name: [one["function"]["description"] for one in tooling.schemas_for(example(environment=name))]
        for name in ("Wordle", "Other", "guess")
    }
    assert shown == {"Wordle": ["Guess the word."], "Other": ["Guess another word."], "guess": []}
    session = session_of(tooling, example(environment="guess", answer=3))
    asked = turn("9")
    reply = session.respond(asked)
    assert reply is not None
    text = tokenizer.spell(session.ids_of(reply, asked, ended=True))
    assert text.count("<|im_start|>user") == 1
    assert "<tools>" not in text


def test_a_column_may_name_an_environment_that_answers_where_the_configured_one_does_not() -> None:
    tooling = made(load_policy("tiny").tokenizer, "calculator")
    session = session_of(tooling, example(environment="guess", answer=3))
    asked = turn("9")
    reply = session.respond(asked)
    assert reply is not None
    assert session.ids_of(reply, asked, ended=True)


def test_a_text_follows_the_last_user_message() -> None:
    system = {"role": "system", "content": "s"}
    assert with_text(Example(messages=[], answer=""), "go").messages == [{"role": "user", "content": "go"}]
    assert with_text(Example(messages=[system], answer=""), "go").messages == [
        system, {"role": "user", "content": "go"},
    ]  # fmt: skip
