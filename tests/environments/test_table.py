"""The table of environments: the key's values, the column `environment`, and hints for near misses."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.rules_of_environments import ENVIRONMENTS
from grpo_cli.environments.embedded.calculator import CalculatorTask
from grpo_cli.environments.embedded.guess import GuessTask
from grpo_cli.environments.embedded.search import SearchTask
from grpo_cli.environments.table import EMBEDDED, code_files, load_environment, load_environments
from grpo_cli.environments.user import UserEnvironment
from grpo_cli.errors import ToolError
from grpo_cli.models import tiny
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer

TOKENIZER = NanochatTokenizer.load(Path(tiny.__file__).parent)
MINE = """
class Echo:
    def reset(self, answer=None): ...
    def respond(self, text): return text
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine_of_the_table.py"
    path.write_text(MINE)
    return f"{path}:Echo"


@pytest.mark.parametrize(
    ("name", "cls"), [("calculator", CalculatorTask), ("guess", GuessTask), ("search", SearchTask)]
)
def test_embedded_environments(name: str, cls: type) -> None:
    source = load_environment(name)
    assert source is EMBEDDED[name]
    first, second = source.make(TOKENIZER), source.make(TOKENIZER)
    assert (type(first), first is second) == (cls, False)
    assert len(source.examples("test", 3, 0)) == 3


def test_configurations_know_the_embedded_ones() -> None:
    assert tuple(EMBEDDED) == ENVIRONMENTS


def test_an_environment_without_a_generator_has_episodes(mine: str) -> None:
    first, second = load_environment(mine).examples("train", 2, 5)
    assert first.columns == {"split": "train", "episode": 0, "seed": 5}
    assert second.columns == {"split": "train", "episode": 1, "seed": 5}
    assert first.messages == second.messages == [{"role": "user", "content": ""}]


def test_the_column_chooses_among_the_runs_environments(mine: str) -> None:
    environments = load_environments([mine, "guess"])

    def name(columns: dict[str, Any]) -> str:
        return environments.source_for(columns).name

    assert [name({}), name({"environment": None}), name({"environment": ""})] == ["Echo"] * 3
    assert [name({"environment": one}) for one in ("Echo", "guess", "search")] == ["Echo", "guess", "search"]
    made = environments.make({"environment": "Echo"}, TOKENIZER)
    assert isinstance(made, UserEnvironment)
    assert made.instance is not environments.make({}, TOKENIZER).instance  # type: ignore[attr-defined]
    assert isinstance(environments.make({"environment": "guess"}, TOKENIZER), GuessTask)


@pytest.mark.parametrize(
    ("value", "start"),
    [("gues", "did you mean `guess`? "), ("other.py:Echo", ""), (3, ""), ([], "")],
)
def test_a_column_names_nothing_that_the_configuration_did_not(value: Any, start: str) -> None:
    with pytest.raises(ToolError) as caught:
        load_environments(["calculator"]).source_for({"environment": value})
    assert caught.value.message == f"Unknown environment in the column `environment`: {value}"
    assert caught.value.hint == (
        f"{start}its environments: calculator, guess, search; others must be in the key `environment`"
    )


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        (
            "serch",
            "Unknown environment: serch",
            "did you mean `search`? embedded environments: calculator, guess, search; "
            "your own: `path/to/file.py:Class`",
        ),
        (
            "verifiers:wordle",
            "Environments of verifiers are not supported: verifiers:wordle",
            "write a class with `reset`, `respond` and `get_reward` that uses its dataset and rubric: "
            "`path/to/file.py:Class`",
        ),
    ],
)
def test_an_entry_that_cannot_be_used(entry: str, message: str, hint: str) -> None:
    with pytest.raises(ToolError) as caught:
        load_environment(entry)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_code_files() -> None:
    assert code_files(["guess", "a/b.py:C", "d.py"]) == [Path("a/b.py"), Path("d.py")]
