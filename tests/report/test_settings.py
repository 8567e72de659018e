"""The configuration on a page: differences from the defaults and between runs, and commands."""

from pathlib import Path

from grpo_cli.config.fields import default, toml_value
from grpo_cli.report.settings import commands_of, differing, settings_rows
from tests.support.report_runs import run_of
from tests.support.run_logs import steps


def test_keys_that_differ_from_their_defaults() -> None:
    rows = settings_rows({"model_name": "tiny", "seed": 7, "temperature": 1.0, "of_the_future": "x\x1b[2J"})
    told = {row["key"]: (row["value"], row["default"], row["differs"]) for row in rows}
    assert told["seed"] == ("7", "0", True)
    assert told["of_the_future"] == ('"x\\u001b[2J"', "", True)
    assert told["model_name"][0] == '"tiny"'
    assert told["temperature"] == ("1.0", toml_value(default("temperature")), default("temperature") != 1.0)


def test_keys_that_differ_between_runs(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / name, steps(1), seed=seed, run_name=name) for name, seed in (("a", 1), ("b", 2))
    ]
    assert differing(runs) == [{"key": "seed", "values": ["1", "2"]}]
    del runs[1].settings["seed"]
    assert differing(runs) == [{"key": "seed", "values": ["1", "–"]}]
    assert differing([runs[0], runs[0]]) == []


def test_commands_are_quoted_for_a_shell(tmp_path: Path) -> None:
    run = run_of(tmp_path / "my run", steps(1))
    folder = tmp_path / "my run"
    assert dict(commands_of(run))["measure its model"] == f"grpo eval --model '{folder}/final'"
    assert dict(commands_of(run))["repeat it"] == (
        f"grpo train --config '{folder}/config.toml' --set run_name='my run-again'"
    )
