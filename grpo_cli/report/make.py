"""The page of runs with the doctor's findings for each of them."""

from collections.abc import Sequence

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.run import diagnose
from grpo_cli.doctor.table import CHECKS
from grpo_cli.report.page import page_of
from grpo_cli.report.read import RunRecord

RUN_CHECKS = [check for check in CHECKS if check.subject == "run"]


def make_page(runs: Sequence[RunRecord], refresh: int = 0) -> str:
    """The page's HTML; `refresh`: seconds until it reloads by itself, 0: never."""
    return page_of(runs, [findings_of(run) for run in runs], refresh)


def findings_of(run: RunRecord) -> list[Finding]:
    """Findings of the checks of a run; the record's log and completions are not read again."""
    context = Context(run=run.folder)
    context.__dict__["log"] = run.log
    context.__dict__["completions"] = run.completions
    return list(diagnose(context, RUN_CHECKS))
