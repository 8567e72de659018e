"""Cures of errors about environments and tools that a person tries."""

import re
from pathlib import Path

from grpo_cli.cli.env import read_turns
from grpo_cli.config.schema import Config
from grpo_cli.engine.trial import Asked, prepare_trial
from grpo_cli.environments.subject import with_entries
from tests.support.cure_scenarios import Steps, cases_of, command, grpo


def turns_that_are_not_there() -> Steps:
    hint = yield lambda: read_turns("turns.txt")
    [example] = re.findall(r'`(".*")`', hint)
    Path("turns.txt").write_text(f"one\n{example}\n")
    assert read_turns("turns.txt") == ["one", "first\nsecond"]


def nothing_to_try() -> Steps:
    hint = yield lambda: prepare_trial(Asked(), Config(tools=[]))
    yield lambda: grpo(*command(hint), "--json")


def row_beyond_the_dataset() -> Steps:
    Path("rows.jsonl").write_text('{"question": "q", "answer": 1}\n')
    config = Config(dataset="rows.jsonl", environment="guess")
    hint = yield lambda: prepare_trial(Asked(row=4, from_dataset=True), config)
    [row] = re.findall(r"`--row (\d+)`", hint)
    yield lambda: prepare_trial(Asked(row=int(row), from_dataset=True), config)


def environment_and_tools_at_once() -> Steps:
    Path("half.py").write_text("def half(x): ...")
    entries = ["guess", "half.py:half"]
    hint = yield lambda: with_entries(Config(), entries)
    assert "one by one" in hint
    yield lambda: [with_entries(Config(), [entry]) for entry in entries]


test_cures_of_environments = cases_of(globals())
