"""Every shipped configuration loads without a word, and its head tells what a person needs to know."""

import re
import tomllib
from pathlib import Path

import pytest

from grpo_cli.config.load import inspect_config, load_config
from grpo_cli.config.render import dump_config, show_config, starting_file
from grpo_cli.config.resolve import shipped_folder

SHIPPED = sorted(shipped_folder().glob("*.toml"))
PROMISED = {
    "debug",
    "smoke_test",
    "ultra_light",
    "medium",
    "prod",
    "nanochat_test",
    "nanochat_grpo",
    "nanochat_d32_test",
    "nanochat_d32",
}


def test_all_promised_configurations_are_there() -> None:
    assert {path.stem for path in SHIPPED} >= PROMISED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_loads_without_problem_or_warning(path: Path) -> None:
    inspection = inspect_config(path.stem)
    assert inspection.problems == inspection.warnings == []
    assert inspection.loaded is not None
    assert inspection.loaded.config.run_name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_the_program_writes_of_it_is_warned_of_nothing(path: Path, tmp_path: Path) -> None:
    loaded = load_config(path.stem)
    again = tmp_path / "again.toml"
    for text in (
        dump_config(loaded.config),  # a run's config.toml
        show_config(loaded),
        starting_file(loaded.config, "my.toml"),
    ):
        again.write_text(text, encoding="utf-8")
        inspection = inspect_config(str(again), on_this_machine=True)
        assert inspection.problems == inspection.warnings == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_its_head_says_what_for_what_it_needs_how_long_and_how(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    found = dict(re.findall(r"^# (For|Needs|Takes|Run): +(\S.*)$", head, re.MULTILINE))
    assert list(found) == ["For", "Needs", "Takes", "Run"]
    assert re.search(r"\d+ GB", found["Needs"])
    assert re.search(r"\d+ (second|minute|hour|s\b)|an hour|a day", found["Takes"])
    assert found["Run"] == f"grpo train --config {path.stem}"


def test_smoke_test_needs_nothing_from_outside() -> None:
    values = tomllib.loads((shipped_folder() / "smoke_test.toml").read_text(encoding="utf-8"))
    assert (values["model_name"], values["dataset"]) == ("tiny", "arithmetic")
    assert values["completion_prefix"] == values["system_prompt"] == ""
