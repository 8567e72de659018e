"""Run the checks in the table's order and collect their findings. A check that crashes is a finding.

for finding in diagnose(Context(run=Path("outputs/prod"))):
    print(finding.severity, finding.name, finding.seen)
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from grpo_cli.doctor.chapters import chapters, nearest
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, skipped
from grpo_cli.doctor.last_error import keep_last_error
from grpo_cli.doctor.table import CHECKS, Check
from grpo_cli.errors import ConfigError, GrpoError

OPTIONS = {
    "config": "--config FILE",
    "model": "--model DIR",
    "checkpoint": "--checkpoint DIR",
    "run": "--run DIR",
    "hosts": "--hosts FILE",
}


def chosen(context: Context, only: Sequence[str] = (), checks: Sequence[Check] = CHECKS) -> list[Check]:
    """The checks to run: those that apply to the context, or those that `only` names.

    `only` contains names of checks and subjects. Raises ConfigError for an unknown name, and for a check
    whose subject was not named on the command line.
    """
    names = {check.name for check in checks} | {check.subject for check in checks}
    for name in only:
        if name not in names:
            raise ConfigError(f"Unknown check: {name}", _near(name, sorted(names)), trouble="doctor")
    wanted = [c for c in checks if (c.name in only or c.subject in only if only else not c.on_request)]
    for check in wanted:
        alone = check.subject in only and not any(applies(c, context) for c in wanted)
        if (check.name in only or alone) and not applies(check, context):
            what = check.name if check.name in only else check.subject
            raise ConfigError(
                f"The check {what} has nothing to examine",
                f"name it: `grpo doctor --only {what} {OPTIONS[check.needs]}`",
                trouble="doctor",
            )
    return [
        check for check in wanted if applies(check, context) and (check.name in only or not check.on_request)
    ]


def applies(check: Check, context: Context) -> bool:
    """True if the context has what the check needs."""
    if check.needs == "config":
        return context.inspection is not None
    if check.needs == "model":
        return context.model is not None or context.checkpoint is not None or context.model_folder is not None
    if check.needs == "checkpoint":
        return bool(context.checkpoints)
    if check.needs == "hosts":
        return context.hosts is not None
    return context.run is not None if check.needs == "run" else True


def diagnose(
    context: Context,
    checks: Sequence[Check],
    on_check: Callable[[Check], None] = lambda _: None,
) -> Iterator[Finding]:
    """Findings of the checks, completed with name, subject, title and the reason that they matter."""
    guide = chapters()
    for check in checks:
        on_check(check)
        for finding in examined(check, context):
            name = finding.name or check.name
            why = finding.why or (guide[name].why if name in guide else "")
            well = finding.severity == "ok" and name == check.name
            title = check.well if well and check.well else name
            yield replace(finding, name=name, subject=check.subject, why=why, title=title)


def examined(check: Check, context: Context) -> list[Finding]:
    """Findings of one check. An exception in it becomes an error finding."""
    try:
        if check.on_mlx and not context.mlx_works:
            return [skipped("MLX does not work here")]
        return list(check.look(context))
    except GrpoError as failure:
        return [replace(error(failure.message, failure.hint), name=failure.trouble)]
    except Exception as failure:  # a crash of one check must not end the doctor
        keep_last_error(failure)
        place = traceback.extract_tb(failure.__traceback__)[-1]
        return [
            error(
                f"the check itself failed: {type(failure).__name__}: {failure}",
                "this is a bug in grpo: please report it with `grpo doctor --report FILE`",
                where=f"{Path(place.filename).name}, line {place.lineno}, in {place.name}",
            )
        ]


def _near(name: str, names: list[str]) -> str:
    near = nearest(name, names)
    start = f"did you mean {' or '.join(f'`{one}`' for one in near)}? " if near else ""
    return f"{start}`grpo doctor --list` shows them all"
