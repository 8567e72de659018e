"""Whether a model's files are whole, and what comes out of it is language."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def files(case: Case) -> Iterator[Finding]:
    """The files are there and their headers can be read."""
    yield skipped("not written yet")


def weights(case: Case) -> Iterator[Finding]:
    """Names and shapes of the weights are those of config.json."""
    yield skipped("not written yet")


def values(case: Case) -> Iterator[Finding]:
    """Every weight is a number, and no row is all zero."""
    yield skipped("not written yet")


def garbled_output(case: Case) -> Iterator[Finding]:
    """Plain English is likely to the model: a continuation and its perplexity."""
    yield skipped("not written yet")


def quantisation(case: Case) -> Iterator[Finding]:
    """Size, speed and accuracy by bits, measured here (slow: only by name)."""
    yield skipped("not written yet")
