"""Names of rewards, and rewards that a user brings in a file of their own."""

from pathlib import Path

import pytest

from grpo_cli.errors import RewardError
from grpo_cli.rewards import builtin
from grpo_cli.rewards.table import REWARDS, load_rewards

NAMES = [
    "correctness", "int", "strict_format", "soft_format", "xmlcount", "last_number", "nanochat_gsm8k",
    "environment", "judge",
    "math_verify",
]  # fmt: skip


def error_of(name: str) -> RewardError:
    """The error that loading this name gives."""
    with pytest.raises(RewardError) as caught:
        load_rewards([name])
    return caught.value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    return tmp_path


def test_the_table_holds_the_built_in_rewards() -> None:
    assert list(REWARDS) == NAMES


def test_both_spellings_load_the_same_function_under_the_short_name() -> None:
    assert load_rewards(NAMES) == load_rewards([f"{name}_reward_func" for name in NAMES])
    assert load_rewards(["int_reward_func"]) == [("int", builtin.integer)]


def test_an_unknown_name_gets_the_nearest_one() -> None:
    error = error_of("corectness_reward_func")
    assert error.message == "Unknown reward function: corectness_reward_func"
    assert error.hint == (
        "did you mean `correctness`? built-in rewards: correctness, int, strict_format, soft_format, "
        "xmlcount, last_number, nanochat_gsm8k, environment, judge, math_verify; your own: "
        "`path/to/file.py:function`"
    )
    assert error_of("zzz").hint.startswith("built-in rewards: ")


def test_a_users_reward_is_loaded_and_called(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "def short(prompts, completions, answer, **columns):\n"
        "    return [1.0 / len(c[0]['content']) for c in completions]\n"
    )
    [(name, function)] = load_rewards(["mine.py:short"])
    assert name == "short"
    assert function(prompts=[], completions=[[{"content": "four"}]], answer=["4"]) == [0.25]
    [(name, _)] = load_rewards([f"{folder}/mine.py:short"])
    assert name == "short"


def test_names_that_clash_are_numbered(folder: Path) -> None:
    (folder / "a.py").write_text("def correctness(**k): return ['a']")
    (folder / "b.py").write_text("def correctness(**k): return ['b']")
    loaded = load_rewards(["correctness", "a.py:correctness", "b.py:correctness"])
    assert [name for name, _ in loaded] == ["correctness", "correctness_2", "correctness_3"]
    assert [function() for _, function in loaded[1:]] == [["a"], ["b"]]


def test_a_file_with_two_rewards_is_run_once_and_may_import_its_neighbour(folder: Path) -> None:
    (folder / "neighbour_of_twice.py").write_text("runs = []")
    (folder / "twice.py").write_text(
        "from neighbour_of_twice import runs\nruns.append(1)\n"
        "def one(**k): return [len(runs)]\ndef two(**k): return [len(runs)]\n"
    )
    loaded = load_rewards(["twice.py:one", "twice.py:two"])
    assert [function() for _, function in loaded] == [[1], [1]]


def test_a_missing_file_is_named(folder: Path) -> None:
    error = error_of("rewards/mine.py:short")
    assert error.message == "Reward file not found: rewards/mine.py"
    assert error.hint == f"write the path from the current folder, {folder}"


def test_a_missing_function_is_named_with_those_that_exist(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from os.path import join\nlimit = 3\ndef short(**k): ...\ndef long(**k): ...\n"
    )
    error = error_of("mine.py:shrt")
    assert error.message == "Reward function not found: shrt in mine.py"
    assert error.hint == "did you mean `short`? functions in mine.py: short, long"
    error = error_of("mine.py:limit")
    assert error.message == "Reward function is not a function: limit in mine.py is of type int"
    for name in ("mine.py", "mine.py:"):
        error = error_of(name)
        assert error.message == "Reward function not named: mine.py"
        assert error.hint == "write `mine.py:short`; functions in mine.py: short, long"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = x / 0\n", "Reward file failed: mine.py, line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "Reward file failed: mine.py, line 1: SyntaxError: invalid syntax"),
        (
            "import no_such\n",
            "Reward file failed: mine.py, line 1: ModuleNotFoundError: No module named 'no_such'",
        ),
        ("import sys\n\nsys.exit(3)\n", "Reward file failed: mine.py, line 3: SystemExit: 3"),
    ],
)
def test_a_file_that_fails_shows_its_own_error_and_line(folder: Path, source: str, message: str) -> None:
    (folder / "mine.py").write_text(source)
    error = error_of("mine.py:f")
    assert error.message == message
    assert error.hint == "run it by itself: `python mine.py`"
    assert error.__cause__ is not None


def test_a_file_that_is_not_python_is_refused(folder: Path) -> None:
    (folder / "mine.txt").write_text("hello")
    assert error_of("mine.txt:f").message == "Reward file is not a Python file: mine.txt"
