"""How much memory there is, and what fits into it."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def memory(case: Case) -> Iterator[Finding]:
    """Total and available memory."""
    yield skipped("not written yet")


def swap(case: Case) -> Iterator[Finding]:
    """Memory that is swapped out."""
    yield skipped("not written yet")


def wired_limit(case: Case) -> Iterator[Finding]:
    """macOS: how much a GPU may hold, iogpu.wired_limit_mb."""
    yield skipped("not written yet")


def models_that_fit(case: Case) -> Iterator[Finding]:
    """Which of the usual models fit, for what."""
    yield skipped("not written yet")
