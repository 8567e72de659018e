"""Whether a checkpoint is as it was written, and a run can go on from it."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def files(case: Case) -> Iterator[Finding]:
    """Manifest, sizes, checksums and headers."""
    yield skipped("not written yet")


def optimizer_state(case: Case) -> Iterator[Finding]:
    """The optimizer's state belongs to the weights."""
    yield skipped("not written yet")


def resumable(case: Case) -> Iterator[Finding]:
    """Whether the run can go on, and from which step."""
    yield skipped("not written yet")
