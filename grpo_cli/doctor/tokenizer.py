"""Whether a model's tokenizer is the right one, and whole."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def loads(case: Case) -> Iterator[Finding]:
    """The tokenizer loads."""
    yield skipped("not written yet")


def vocabulary(case: Case) -> Iterator[Finding]:
    """The tokenizer has the model's vocabulary (65536 for nanochat d20 and d32)."""
    yield skipped("not written yet")


def round_trip(case: Case) -> Iterator[Finding]:
    """Tricky texts come back as they were."""
    yield skipped("not written yet")


def special_tokens(case: Case) -> Iterator[Finding]:
    """Special tokens are there, one id each."""
    yield skipped("not written yet")


def end_tokens(case: Case) -> Iterator[Finding]:
    """A completion can end: the end tokens are known."""
    yield skipped("not written yet")


def chat_template(case: Case) -> Iterator[Finding]:
    """Conversations become prompts."""
    yield skipped("not written yet")
