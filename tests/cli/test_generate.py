"""`grpo generate`: a chat on a terminal, how it is left and what Ctrl-C stops; tools and environments."""

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.cli.generate import Chat, answer, named_tools
from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.continuous_batch import stop_reason
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.environments.by_hand import end_id
from grpo_cli.environments.subject import of_prompts
from grpo_cli.models.load import load_policy
from tests.support.chat_models import chat_model
from tests.support.commands import grpo
from tests.support.waiting import HANG, wait_until

# The command with answers that never end; `?` has none, so that it is stopped before its first word.
ENDLESS = """
import itertools, sys, time
import grpo_cli.engine.rollout.stream
from grpo_cli.cli.main import run
def stream(policy, ids, sampling, prefix, session):
    asked = policy.tokenizer.decode(ids)
    yield f"[{asked.count('first')} {asked.count('second')} {asked.count('word')}]", None
    for number in itertools.count():
        yield f"word{number} ", None
        time.sleep(0.01)
grpo_cli.engine.rollout.stream.stream = stream
sys.argv = ["grpo", "generate", "--model", "tiny", "--chat"]
run()
"""


class Person:
    """Somebody at a terminal that runs the command."""

    def __init__(self, folder: Path) -> None:
        self.terminal, there = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS],
            stdin=there,
            stdout=there,
            stderr=there,
            cwd=folder,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
        )
        os.close(there)
        os.set_blocking(self.terminal, False)

    def sees(self, text: str) -> str:
        """Wait for a text; what was shown up to it is returned and forgotten."""
        wait_until(
            lambda: text in self.look(), text, lambda: self.process.poll() is None or text in self.look()
        )
        before, _, self.shown = self.shown.partition(text)
        return before

    def look(self) -> str:
        """All that is shown and was not looked at before."""
        with contextlib.suppress(OSError):  # nothing now, or the other end is closed
            self.shown += os.read(self.terminal, 1 << 16).decode(errors="replace")
        return self.shown

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())


def take_terminal() -> None:
    """Make stdin the terminal of this session, so that its Ctrl-C comes here."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    person.process.kill()
    person.process.wait()
    os.close(person.terminal)


def test_ctrl_c_stops_the_answer_and_at_the_prompt_the_chat(person: Person) -> None:
    person.sees("An empty line, /exit or Ctrl-D ends the chat; Ctrl-C stops an answer.")
    person.sees("› ")
    person.types("first\n")
    person.sees("[1 0 0]")
    person.sees("word0 word1 word2 ")
    person.types("\x03")
    person.sees("(stopped)")
    person.sees("› ")
    person.types("second\n")
    told = person.sees("word0")
    assert "[1 1 " in told  # the first question is remembered, and what there was of its answer
    assert "[1 1 0]" not in told
    person.types("\x03")
    person.sees("› ")
    person.types("\x03")
    person.sees("Interrupted: the chat has ended.")
    assert person.process.wait(HANG) == 130


# --- tools -------------------------------------------------------------------------------------------

CODE = '''
def lookup(city: str) -> str:
    """Look up a city.

    Args:
        city: its name
    """
    return {"Paris": "2.1 million\\x1b[2J"}[city]

class Talk:
    def reset(self, question: str) -> str:
        self.question = question
        return " Please."

    def respond(self, text: str) -> str | None:
        return f"again: {self.question}" if not text.startswith("again") else None

class Needy(Talk):
    def reset(self, wrd: str) -> None: ...
'''
CALL = '<tool_call>\n{"name": "lookup", "arguments": {"city": "CITY"}}\n</tool_call>'


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)
    Path("chat_code.py").write_text(CODE)


class Scripted:
    """A model with the chat template of Qwen 2.5 that writes given turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *turns: str) -> None:
        self.tokenizer: Any = chat_model("qwen2_5").tokenizer
        self.turns = list(turns)
        self.prompts: list[str] = []
        monkeypatch.setattr("grpo_cli.engine.rollout.stream.sampled", self.sampled)

    def sampled(self, _: Any, row: Any, sampling: Any, whole: Any) -> Iterator[None]:
        self.prompts.append(self.tokenizer.spell(row.prompt))
        while row.stop_reason is None:
            for token in [*self.tokenizer.encode(self.turns.pop(0)), end_id(self.tokenizer)]:
                row.add(token, 0.0, 0.0, None)
                row.stop_reason = stop_reason(row, sampling, whole)
                yield

    def chat(self, *tools: str, **keys: Any) -> Chat:
        config = Config(tools=list(tools), system_prompt="", completion_prefix="", **keys)
        tooling, columns = of_prompts(config, self.tokenizer)
        policy: Any = self
        return Chat(policy, config, tooling, columns, Sampling(max_new_tokens=500, temperature=0.0))


@pytest.mark.usefixtures("code")
def test_calls_and_results_are_shown_apart_and_remembered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paris, rome = CALL.replace("CITY", "Paris"), CALL.replace("CITY", "Rome")
    model = Scripted(monkeypatch, f"So: {paris}", rome, "2.1 million.", "Yes.")
    chat = model.chat("chat_code.py:lookup")
    messages = [{"role": "user", "content": "How many?"}]
    messages += answer(chat, messages, stoppable=True)
    out, err = capsys.readouterr()
    assert out == f"So: {paris}\n{rome}\n2.1 million.\n"
    shown = [re.sub(r"   \d\.\d\d s", "", line) for line in err.splitlines()]
    assert shown == [
        "  ⚙ lookup(city='Paris') → 2.1 million␛[2J",
        "  ⚙ lookup(city='Rome') → {\"error\": \"KeyError: 'Rome'\"}",
    ]
    assert [message["role"] for message in messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert messages[-1]["content"] == "2.1 million."
    messages.append({"role": "user", "content": "Sure?"})
    assert answer(chat, messages, stoppable=True) == [{"role": "assistant", "content": "Yes."}]
    assert '"name": "lookup"' in model.prompts[0]
    assert model.prompts[1].startswith(model.prompts[0])
    assert "<tool_response>\n2.1 million" in model.prompts[1]


@pytest.mark.usefixtures("code")
def test_an_environment_answers_in_a_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Scripted(monkeypatch, "hm", "again")
    said = answer(
        model.chat(environment="chat_code.py:Talk"), [{"role": "user", "content": "Go."}], stoppable=True
    )
    assert [one["content"] for one in said] == ["hm", "again: Go.", "again"]
    out, err = capsys.readouterr()
    assert (out, err) == ("hm\nagain\n", "  ⚙ again: Go.\n")
    assert "Go. Please.<|im_end|>" in model.prompts[0]


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tools", "chat_code.py:lokup"], "Tool function not found: lokup in chat_code.py"),
        (["--tools", "chat_code.py:lookup"], "The model has no chat template that could show it tools"),
        (["--set", "environment=chat_code.py:Needy"], "Environment needs the column `wrd`"),
        (["--set", "environment=gues"], "Unknown environment: gues"),
    ],
)
def test_tools_that_cannot_be_used(words: list[str], message: str) -> None:
    result = grpo("generate", "--model", "tiny", "--prompt", "1 + 1", *words)
    assert result.exit_code in (1, 2)
    assert message in result.stderr


@pytest.mark.usefixtures("code")
def test_the_environment_of_a_configuration() -> None:
    words = ["generate", "--model", "tiny", "--prompt", "What is 3 + 2?", "--max-tokens", "60"]
    plain, searched = grpo(*words), grpo(*words, "--config", "tools_smoke")
    assert searched.exit_code == 0, searched.stderr
    config = Config(environment="search", system_prompt="", completion_prefix="")
    policy = load_policy("tiny")
    tooling, columns = of_prompts(config, policy.tokenizer)
    chat = Chat(policy, config, tooling, columns, Sampling(max_new_tokens=60, temperature=0.0))
    with redirect_stdout(StringIO()):
        [message] = answer(chat, [{"role": "user", "content": "What is 3 + 2?"}], stoppable=False)
    assert searched.stdout == message["content"] + "\n"
    assert plain.exit_code == 0


def test_several_tools() -> None:
    assert named_tools([]) == []
    assert named_tools(["a.py:f", "b.py:g,b.py:h"]) == ["tools=a.py:f,b.py:g,b.py:h", "environment="]
