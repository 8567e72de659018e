"""What a run's log says: whether it learns, and what keeps it from learning."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def rewards_zero(case: Case) -> Iterator[Finding]:
    """Rewards are not zero for long."""
    yield skipped("not written yet")


def nothing_to_learn(case: Case) -> Iterator[Finding]:
    """Groups differ in their rewards."""
    yield skipped("not written yet")


def identical_completions(case: Case) -> Iterator[Finding]:
    """The completions of a group differ."""
    yield skipped("not written yet")


def reward_high(case: Case) -> Iterator[Finding]:
    """No mean reward above 10."""
    yield skipped("not written yet")


def grad_norm_high(case: Case) -> Iterator[Finding]:
    """No gradient norm above 10."""
    yield skipped("not written yet")


def nan_gradient(case: Case) -> Iterator[Finding]:
    """No update was skipped for a NaN."""
    yield skipped("not written yet")


def kl_high(case: Case) -> Iterator[Finding]:
    """The policy stays near its reference."""
    yield skipped("not written yet")


def collapse(case: Case) -> Iterator[Finding]:
    """Rewards and accuracy did not fall."""
    yield skipped("not written yet")


def length_collapse(case: Case) -> Iterator[Finding]:
    """Completions keep a length."""
    yield skipped("not written yet")


def truncation(case: Case) -> Iterator[Finding]:
    """Completions end by themselves."""
    yield skipped("not written yet")


def repetition(case: Case) -> Iterator[Finding]:
    """Completions do not repeat themselves."""
    yield skipped("not written yet")


def accuracy_flat(case: Case) -> Iterator[Finding]:
    """Accuracy moves by more than chance."""
    yield skipped("not written yet")


def time_split(case: Case) -> Iterator[Finding]:
    """Where a step's time goes."""
    yield skipped("not written yet")
