"""`grpo env try`: turns, masks and rewards on the screen, and the errors of an author's code."""

# ruff: noqa: E501 - one case a line

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_cli.cli.env import turn_of
from tests.support.commands import grpo

ROOT = Path(__file__).parents[2]

CODE = '''
class Wordle:
    def reset(self, word: str = "house") -> str:
        self.word, self.tries = word, 0
        return f"It has {len(word)} letters."

    def guess(self, word: str) -> str:
        """Guess the word.

        Args:
            word: a word
        """
        self.tries += 1
        if word == "boom":
            raise LookupError("\\x1b[31mred")
        return "right" if word == self.word else "wrong"

    def get_reward(self) -> float:
        return 1.0 / self.tries if self.tries else 0.0

class Bad:
    def reset(self): ...
    def respond(self, text):
        if text == "raise":
            return 1 / 0
        return 3
'''
GAME = """\
subject   guess
          ids and format are those of `tiny`; yours: --model NAME --by-hand
columns   question='What is it?', answer=2
prompt    10 tokens, not trained
          <|bos|><|user_start|>What is it?<|user_end|><|assistant_start|>
turn 1
 mask 1   51 311
          3<|assistant_end|>
 user     lower   0.00 s
 mask 0   308 108 293 263 309 310
          <|user_start|>lower<|user_end|><|assistant_start|>
turn 2
 mask 1   50 311
          2<|assistant_end|>
end       finished: the environment gave no answer to the last turn
reward    1
account   2 turns, 0 tool calls (0 failed), 0.00 s in the environment
          4 tokens trained, 6 not
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
    Path("my_game.py").write_text(CODE)


def test_a_game_by_hand() -> None:
    result = grpo("env", "try", "guess", "--column", "answer=2", stdin="3\n2\n")
    assert result.exit_code == 0, result.stderr
    assert "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n" == GAME
    assert result.stderr == ""


def test_answers_of_a_file_and_json() -> None:
    Path("turns.txt").write_text('"/guess mouse\\n/guess house"\nI won\n')
    words = ["env", "try", "my_game.py:Wordle", "--column", "word=house", "--answers", "turns.txt", "--json"]
    result = grpo(*words)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["environment"] == "my_game.py:Wordle"
    assert [tool["function"]["name"] for tool in told["tools"]] == ["guess"]
    assert told["columns"]["word"] == "house"
    assert [event["event"] for event in told["events"]] == ["turn", "answer", "turn"]
    calls = told["events"][1]["calls"]
    assert [(call["name"], call["arguments"], call["text"]) for call in calls] == [
        ("guess", {"word": "mouse"}, "wrong"), ("guess", {"word": "house"}, "right"),
    ]  # fmt: skip
    assert (told["reward"], told["calls"], told["failures"], told["turns"]) == (0.5, 2, 0, 2)
    assert len(told["token_ids"]) == len(told["loss_mask"])
    spans = [span for event in told["events"] for span in event["spans"]]
    assert [token for span in spans for token in span["token_ids"]] == told["token_ids"]
    assert [span["mask"] for span in spans for _ in span["token_ids"]] == told["loss_mask"]


def test_a_model_plays() -> None:
    words = ["env", "try", "search", "--model", "tiny", "--seed", "3", "--temperature", "0", "--json"]
    told = json.loads(grpo(*words).stdout)
    assert told == json.loads(grpo(*words).stdout) | {"seconds": told["seconds"]}
    assert told["turns"] == 1
    assert sum(told["loss_mask"]) > 0
    shown = grpo(*words[:-1])
    assert "those of `tiny`" not in shown.stdout
    assert f"reward    {told['reward']:g}\n" in shown.stdout


def test_the_environment_and_rows_of_a_configuration() -> None:
    Path("rows.jsonl").write_text('{"question": "q", "answer": 1}\n{"question": "Next?", "answer": 4}\n')
    Path("c.toml").write_text(
        'environment = "guess"\ndataset = "rows.jsonl"\nsystem_prompt = ""\nmax_turns = 1\n'
    )
    told = json.loads(grpo("env", "try", "--config", "c.toml", "--row", "1", "--json", stdin="3\n").stdout)
    assert told["messages"] == [{"role": "user", "content": "Next?"}]
    assert told["ended"] == "finished: max_turns = 1, so the environment was not asked again"
    assert told["reward"] == 0.0


def test_a_tool_that_raises_is_shown_with_its_line_and_without_control_characters() -> None:
    result = grpo("env", "try", "my_game.py:Wordle", stdin="/guess boom\nend\n")
    assert result.exit_code == 0
    assert "raised at my_game.py, line 15" in result.stdout
    assert "\x1b" not in result.stdout
    assert "[31mred" in result.stdout


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ("raise", "Environment raised ZeroDivisionError: division by zero: Bad.respond in my_game.py (my_game.py, line 25)"),
        ("other", "Environment returned 3 of type int: Bad.respond in my_game.py"),
    ],
)  # fmt: skip
def test_an_author_s_error_has_its_line(turn: str, message: str) -> None:
    result = grpo("env", "try", "my_game.py:Bad", stdin=f"{turn}\n")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == message
    assert "grpo env try" not in result.stderr  # it runs already
    assert f"{turn}<|assistant_end|>" in result.stdout  # the turn that it failed on


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name an environment"),
        (["guess", "--column", "x"], "write --column NAME=VALUE, not 'x'"),
        (["my_game.py:Wordel"], "Environment not found: Wordel in my_game.py"),
        (["gues"], "Unknown environment: gues"),
        (["my_game.py:Wordle", "--model", "tiny"], "The model has no syntax for tool calls"),
        (["guess", "--answers", "gone.txt"], "Turns cannot be read: gone.txt: No such file or directory"),
    ],
)
def test_errors(words: list[str], message: str) -> None:
    result = grpo("env", "try", *words)
    assert result.exit_code in (1, 2)
    assert message in result.stderr


def test_turns_of_several_lines() -> None:
    assert turn_of("plain") == "plain"
    assert turn_of('"a\\nb"') == "a\nb"
    assert turn_of('"a" or "b"') == '"a" or "b"'


def test_a_process_of_its_own_prints_the_document_alone() -> None:
    """Neither what the tool and its file print, nor a notice of a library, is mixed with it."""
    Path("loud.py").write_text(
        'print("file")\ndef one() -> str:\n    """One."""\n    print("tool")\n    return "1"\n'
    )
    words = ["env", "try", "loud.py:one", "--answers", "-", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS", None)
    done = subprocess.run(
        [sys.executable, "-m", "grpo_cli", *words],
        input="/one\n",
        capture_output=True,
        text=True,
        env=environment,
    )
    assert json.loads(done.stdout)["events"][1]["calls"][0]["text"] == "1"
    assert done.stderr == "file\ntool\n"
