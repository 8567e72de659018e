"""`report_to`: a list of trackers; `none` and one name alone, as other trainers write them, are accepted."""

from typing import Any

import pytest
from pydantic import ValidationError

from grpo_cli.config.foreign_keys import fitting
from grpo_cli.config.load import load_config
from grpo_cli.config.schema import Config


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("none", []),
        (["none"], []),
        ([], []),
        ("wandb", ["wandb"]),
        (["wandb", "mlflow", "wandb"], ["wandb", "mlflow"]),
    ],
)
def test_the_value_as_a_list(written: Any, read: list[str]) -> None:
    assert Config(report_to=written).report_to == read


@pytest.mark.parametrize("wrong", ["comet", ["comet"], True, 3, [3], {"a": 1}])
def test_other_values_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        Config(report_to=wrong)


@pytest.mark.parametrize(
    ("text", "read"), [("none", []), ("wandb,tensorboard", ["wandb", "tensorboard"]), ("[wandb]", ["wandb"])]
)
def test_from_the_command_line(text: str, read: list[str]) -> None:
    assert load_config(None, [f"report_to={text}"], required=False).config.report_to == read


@pytest.mark.parametrize(
    ("key", "value", "ours"),
    [
        ("report_to", "tensorboardX", {"report_to": ["tensorboard"]}),
        ("report_to", "wandb, mlflow", {"report_to": ["wandb", "mlflow"]}),
        ("use_wandb", True, {"report_to": ["wandb"]}),
        ("use_wandb", False, {}),
        ("wandb_project", "sums", {}),
        ("logging_dir", "logs", {}),
    ],
)
def test_keys_of_other_programs(key: str, value: Any, ours: dict[str, Any]) -> None:
    found = fitting(key, value, {})
    assert found is not None and found.ours == ours
