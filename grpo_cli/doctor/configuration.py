"""What a configuration says, and what only this machine knows of it."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def validity(case: Case) -> Iterator[Finding]:
    """What `grpo config validate` says."""
    yield skipped("not written yet")


def memory_needed(case: Case) -> Iterator[Finding]:
    """The configuration fits this machine's memory."""
    yield skipped("not written yet")


def duration(case: Case) -> Iterator[Finding]:
    """How long the run will take, from a measured step."""
    yield skipped("not written yet")
