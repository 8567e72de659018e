"""The bug report of `grpo doctor --report FILE`."""

from collections.abc import Sequence

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding


def bug_report(case: Case, findings: Sequence[Finding]) -> str:
    """One Markdown text."""
    raise NotImplementedError
