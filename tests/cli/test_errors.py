"""Errors and exit codes: a message, a hint, and the command that cures a broken installation."""

import sys
from importlib import import_module
from typing import Any

import pytest

from grpo_cli.cli.errors import broken_installation
from grpo_cli.errors import TrainingError
from tests.support.commands import grpo

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_an_error_for_people_is_its_message_a_blank_line_and_the_hint(failing: list[Any]) -> None:
    failing.append(TrainingError("NaN gradient encountered in [layers.0]", "`--set learning_rate=1e-6`"))
    result = grpo("fail")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "NaN gradient encountered in [layers.0]\n\nhint: `--set learning_rate=1e-6`\n"
        "more: `grpo doctor --explain training-stopped`\n"
    )


def test_a_missing_mlx_lm_names_the_command_that_cures(failing: list[Any]) -> None:
    failing.append(ModuleNotFoundError("No module named 'mlx_lm'", name="mlx_lm"))
    result = grpo("fail")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "ModuleNotFoundError: No module named 'mlx_lm'",
        "",
        f"hint: `{sys.executable} -m pip install --upgrade 'mlx-lm>=0.32.2'`",
        "more: `grpo doctor --explain mlx-lm`",
    ]


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libmlx.so: cannot open shared object file: No such file or directory"),
        ModuleNotFoundError("No module named 'mlx.core'", name="mlx.core"),
    ],
)
def test_mlx_without_a_backend_names_the_extra(error: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    known = broken_installation(error)
    assert known is not None
    assert known.message == f"{type(error).__name__}: {error}"
    assert "pip install 'grpo-cli[cpu]'" in known.hint


def test_an_import_error_of_our_own_is_a_bug() -> None:
    with pytest.raises(ImportError) as caught:
        import_module("grpo_cli.no_such_module")
    assert broken_installation(caught.value) is None


def test_an_interrupt_ends_with_130(failing: list[Any]) -> None:
    failing.append(KeyboardInterrupt())
    assert grpo("fail").exit_code == 130
