"""Room on the disks, and what is left lying on them."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def disk_space(case: Case) -> Iterator[Finding]:
    """Free space beside what the run's checkpoints take."""
    yield skipped("not written yet")


def output_folder(case: Case) -> Iterator[Finding]:
    """The output folder can be written."""
    yield skipped("not written yet")


def hub_cache_size(case: Case) -> Iterator[Finding]:
    """Where downloads go, and how large they are."""
    yield skipped("not written yet")


def leftovers(case: Case) -> Iterator[Finding]:
    """Temporary files of ours that a killed process left."""
    yield skipped("not written yet")
