"""The table of trackers, and a missing package: an error before anything is loaded, which names the extra."""

import tomllib
from pathlib import Path

import pytest

from grpo_cli.config.tracker_names import PACKAGES
from grpo_cli.engine.train import train
from grpo_cli.errors import ConfigError
from grpo_cli.trackers.table import TRACKERS, check_installed
from tests.support.small_runs import small

ROOT = Path(__file__).parents[2]


def test_every_tracker_has_an_extra_with_its_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert TRACKERS.keys() == PACKAGES.keys()
    assert all(extras[name][0].startswith(f"{package}>=") for name, package in PACKAGES.items())


def test_a_missing_package_ends_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, "mlflow", "no_such_package")
    with pytest.raises(ConfigError, match="`mlflow` needs the package no_such_package") as raised:
        train(small(tmp_path, report_to=["mlflow"]))
    assert "`.[mlflow]`" in raised.value.hint and "`report_to = []`" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_is_installed_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "mlflow", "json")
    check_installed(["mlflow"])
