"""The environment or the tools to try, and their example."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.environments.subject import (
    example_to_try,
    files_of,
    read_columns,
    unread_columns,
    with_entries,
)
from grpo_cli.environments.table import load_environments
from grpo_cli.errors import DataError, ToolError

CODE = """
def lookup(city): ...
class Echo:
    def reset(self, word="a"): ...
    def respond(self, text): ...
class Open(Echo):
    def reset(self, **columns): ...
from os.path import join
Alias = Echo
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine_to_try.py").write_text(CODE)
    Path("broken.py").write_text("def f(:")


@pytest.mark.parametrize(
    ("entries", "tools", "environment"),
    [
        (["guess"], ["auto"], "guess"),
        (["mine_to_try.py:Echo"], ["auto"], "mine_to_try.py:Echo"),
        (["guess", "mine_to_try.py:Echo"], ["auto"], "guess,mine_to_try.py:Echo"),
        (["mine_to_try.py:lookup"], ["mine_to_try.py:lookup"], ""),
        (["mine_to_try.py:join"], ["mine_to_try.py:join"], ""),
        (["mine_to_try.py:Alias"], ["auto"], "mine_to_try.py:Alias"),
        (["mine_to_try.py"], ["auto"], "mine_to_try.py"),
        (["broken.py:Echo"], ["auto"], "broken.py:Echo"),
        (["gone.py:lookup"], ["gone.py:lookup"], ""),
        ([], ["x.py:f"], "search"),
    ],
)
def test_entries_are_told_apart(entries: list[str], tools: list[str], environment: str) -> None:
    config = with_entries(Config(tools=["x.py:f"], environment="search"), entries)
    assert (config.tools, config.environment) == (tools, environment)


def test_a_mixture_is_refused() -> None:
    with pytest.raises(ToolError, match=r"at once: guess \(class\), mine_to_try.py:lookup \(function\)"):
        with_entries(Config(), ["guess", "mine_to_try.py:lookup"])


def test_files_to_run() -> None:
    config = Config(tools=["auto", "a.py:f"], environment="guess, b.py:C")
    assert files_of([], config) == [Path("a.py"), Path("b.py")]
    assert files_of(["c.py:D", "guess"], config) == [Path("c.py")]


def made(config: Config, columns: dict[str, Any] | None = None, **keys: Any) -> Any:
    return example_to_try(config, load_environments(config.environments), columns or {}, **keys)


def test_examples_of_an_environment() -> None:
    config = Config(environment="guess", system_prompt="Play.", seed=3)
    first, third = made(config), made(config, row=2)
    source = load_environments(["guess"])
    assert source is not None
    expected = source.default.examples("train", 3, 3)
    assert (first.columns, third.columns) == (expected[0].columns, expected[2].columns)
    assert first.messages == [
        {"role": "system", "content": "Play."}, {"role": "user", "content": "What is it?"},
    ]  # fmt: skip
    assert made(config, {"answer": 9, "x": 1}).columns == {"question": "What is it?", "answer": 9, "x": 1}


def test_the_user_s_message_can_be_given() -> None:
    assert made(Config(system_prompt=""), prompt="How many?").messages == [
        {"role": "user", "content": "How many?"}
    ]
    assert made(Config(environment="guess", system_prompt="Play."), prompt="Now.").messages == [
        {"role": "system", "content": "Play."}, {"role": "user", "content": "Now."},
    ]  # fmt: skip


def test_rows_of_a_dataset() -> None:
    Path("rows.jsonl").write_text('{"question": "q", "answer": 1}\n{"question": "r", "answer": 2}\n')
    config = Config(dataset="rows.jsonl", environment="guess", system_prompt="")
    second = made(config, {"answer": 5}, row=1, from_dataset=True)
    assert second.messages == [{"role": "user", "content": "r"}]
    assert second.columns["answer"] == 5
    with pytest.raises(DataError, match="Row 2 is not there: the split train has 2 rows"):
        made(config, row=2, from_dataset=True)


def test_columns_are_json_or_text() -> None:
    texts = ["word=house", "answer=5", 'list=["a"]', "equation=a=b", "empty=", 'quoted="5"']
    assert read_columns(texts) == {
        "word": "house", "answer": 5, "list": ["a"], "equation": "a=b", "empty": "", "quoted": "5",
    }  # fmt: skip
    deep = "[" * 100_000
    assert read_columns([f"deep={deep}"]) == {"deep": deep}  # too deep for JSON
    for wrong in ("word", "=3"):
        with pytest.raises(ValueError, match=wrong):
            read_columns([wrong])


@pytest.mark.parametrize(
    ("entry", "unread"),
    [("mine_to_try.py:Echo", ["x"]), ("mine_to_try.py:Open", []), ("guess", []), ("", ["word", "x"])],
)
def test_columns_that_reset_does_not_take(entry: str, unread: list[str]) -> None:
    environments = load_environments([entry] if entry else [])
    example = made(Config(environment=entry))
    assert unread_columns(environments, example, ["word", "x"]) == unread
