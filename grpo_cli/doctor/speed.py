"""How fast this machine computes, and what slows it down."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def matrix_product(case: Case) -> Iterator[Finding]:
    """Speed of a matrix product, and which BLAS makes it."""
    yield skipped("not written yet")


def memory_bandwidth(case: Case) -> Iterator[Finding]:
    """Speed of the memory."""
    yield skipped("not written yet")


def power(case: Case) -> Iterator[Finding]:
    """Heat and battery, where they can be read."""
    yield skipped("not written yet")
