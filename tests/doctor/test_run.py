"""Going through the checks: what is chosen, what is filled in, and what a crash becomes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.chapters import chapters
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, ok, warning
from grpo_cli.doctor.run import chosen, diagnose
from grpo_cli.doctor.table import Check
from grpo_cli.errors import CheckpointError, ConfigError


class Broken(Context):
    """A context on whose machine MLX cannot be imported."""

    @property
    def probe(self) -> dict[str, Any]:  # type: ignore[override]
        return {"failed": "import mlx", "error": "ImportError: libmlx.so"}


def fine(_: Context) -> Iterator[Finding]:
    """Sees nothing bad."""
    yield ok("all is well", count=3)


def careful(_: Context) -> Iterator[Finding]:
    """Warns."""
    yield warning("it is near", "move it", "mv a b", distance=1)


def crashing(_: Context) -> Iterator[Finding]:
    """Divides by zero."""
    yield ok(str(1 // 0))


def failing(_: Context) -> Iterator[Finding]:
    """Meets an error of ours."""
    raise CheckpointError("Checkpoint not found: x", "look again", trouble="checkpoint-not-found")
    yield


FINE = Check(name="wired-limit", subject="memory", look=fine)
CAREFUL = Check(name="swap", subject="memory", look=careful)
CRASHING = Check(name="hub", subject="hub", look=crashing)
FAILING = Check(name="resumable", subject="checkpoint", look=failing, needs="run")
ON_MLX = Check(name="tokenizer", subject="tokenizer", look=fine, needs="model", on_mlx=True)
SLOW = Check(name="quantisation", subject="model", look=fine, on_request=True)
ALL = (FINE, CAREFUL, CRASHING, FAILING, ON_MLX, SLOW)


def found(check: Check, context: Context | None = None) -> Finding:
    (finding,) = diagnose(context or Context(), [check])
    return finding


def test_a_finding_gets_its_name_subject_and_reason() -> None:
    finding = found(CAREFUL)
    assert finding.as_row() == {
        "name": "swap",
        "subject": "memory",
        "severity": "warning",
        "seen": "it is near",
        "why": chapters()["swap"].why,
        "cure": "move it",
        "commands": ["mv a b"],
        "numbers": {"distance": 1},
    }


def test_a_check_that_crashes_is_a_finding_and_ends_nothing() -> None:
    crash, after = diagnose(Context(), [CRASHING, FINE])
    assert (crash.name, crash.severity, after.severity) == ("hub", "error", "ok")
    assert crash.seen == "the check itself failed: ZeroDivisionError: integer division or modulo by zero"
    assert crash.numbers["where"].startswith("test_run.py, line ")


def test_an_error_of_ours_is_a_finding_with_its_cure_and_its_chapter() -> None:
    finding = found(FAILING)
    assert (finding.name, finding.seen, finding.cure) == (
        "checkpoint-not-found",
        "Checkpoint not found: x",
        "look again",
    )
    assert finding.why == chapters()["checkpoint-not-found"].why


def test_what_needs_mlx_is_skipped_where_mlx_is_broken() -> None:
    assert (found(ON_MLX, Broken()).severity, found(ON_MLX, Broken()).seen) == (
        "skipped",
        "MLX does not work here",
    )
    assert found(FINE, Broken()).severity == "ok"


def test_only_what_applies_is_chosen() -> None:
    names = [check.name for check in chosen(Context(), (), ALL)]
    assert names == ["wired-limit", "swap", "hub"]
    names = [check.name for check in chosen(Context(run=Path("x")), (), ALL)]
    assert names == ["wired-limit", "swap", "hub", "resumable"]


def test_only_takes_names_and_subjects() -> None:
    assert chosen(Context(), ["memory"], ALL) == [FINE, CAREFUL]
    assert chosen(Context(), ["swap", "hub"], ALL) == [CAREFUL, CRASHING]
    assert chosen(Context(), ["quantisation"], ALL) == [SLOW]
    with pytest.raises(ConfigError) as error:
        chosen(Context(), ["checkpoint"], ALL)
    assert error.value.hint == "name it: `grpo doctor --only checkpoint --run DIR`"


def test_an_unknown_check_has_near_names() -> None:
    with pytest.raises(ConfigError) as error:
        chosen(Context(), ["wired-limits"], ALL)
    assert str(error.value).splitlines() == [
        "Unknown check: wired-limits",
        "",
        "hint: did you mean `wired-limit`? `grpo doctor --list` shows them all",
    ]


def test_a_check_that_has_nothing_to_look_at_says_what_it_needs() -> None:
    with pytest.raises(ConfigError) as error:
        chosen(Context(), ["resumable"], ALL)
    assert error.value.message == "The check resumable has nothing to examine"
    assert error.value.hint == "name it: `grpo doctor --only resumable --run DIR`"
