"""The model hub: whether it can be reached, and as whom."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def reachable(case: Case) -> Iterator[Finding]:
    """The hub answers, or offline mode is on."""
    yield skipped("not written yet")


def token(case: Case) -> Iterator[Finding]:
    """A token for gated models."""
    yield skipped("not written yet")
