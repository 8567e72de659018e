"""How findings, the list of checks and a chapter look on the terminal.

memory
  ✓ memory        16.0 GB, 9.1 available
  ! wired-limit   10.7 GB for the GPU; this run needs 12.4
                  more than that is swapped …
                  → raise it until the next reboot
                    sudo sysctl iogpu.wired_limit_mb=12800
                  grpo doctor --explain wired-limit
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.terminal import Safe, is_interactive, say, stderr_console, stdout_console
from grpo_cli.doctor.checks import Check
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.guide import Chapter
from grpo_cli.foreign_text import visible

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red"), "skipped": ("–", "dim")}
NAME_WIDTH = 22


def show_findings(findings: Sequence[Finding]) -> None:
    """Every finding by subject on stdout, then one line that counts them."""
    console = stdout_console()
    for subject, found in groupby(findings, key=lambda finding: finding.subject):
        say(console, Text(subject, style="bold"))
        for finding in found:
            say(console, described(finding))
    say(console, Text(""))
    say(console, verdict(findings))


def described(finding: Finding) -> Text:
    """A finding: one line where all is well, else with its reason, its cure and its chapter."""
    mark, style = MARKS[finding.severity]
    text = Text()
    text.append(f"  {mark} ", style=style)
    text.append(f"{finding.name:<{NAME_WIDTH}}", style="dim" if finding.severity == "skipped" else "")
    text.append(indented(finding.seen))
    if finding.severity in ("warning", "error"):
        if finding.why:
            first = finding.why.partition("\n\n")[0]  # the chapter has the rest
            text.append(f"\n{margin()}{indented(first)}", style="dim")
        if finding.cure:
            text.append(f"\n{margin()}cure: {indented(finding.cure)}")
        for command in finding.commands:
            text.append(f"\n{margin()}  {indented(command)}", style="cyan")
        text.append(f"\n{margin()}more: grpo doctor --explain {finding.name}", style="dim")
    return text


def margin() -> str:
    """The space before a finding's later lines."""
    return " " * (4 + NAME_WIDTH)


def indented(text: str) -> str:
    """A text whose later lines stand under its first."""
    return visible(text).replace("\n", f"\n{margin()}")


def verdict(findings: Sequence[Finding]) -> Text:
    """How many findings there are of each kind."""
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in MARKS}
    style = "red" if counts["error"] else "yellow" if counts["warning"] else "green"
    told = [f"{count} {MARKS[kind][0]}" for kind, count in counts.items() if count]
    return Text(", ".join(told) if told else "nothing to look at", style=style)


@contextmanager
def looking(total: int, quiet: bool) -> Iterator[Callable[[Check], None]]:
    """What tells a terminal, within the block, which check is at work; elsewhere nothing is shown."""
    console = stderr_console()
    if quiet or not is_interactive(console):
        yield lambda _: None
        return
    done = 0
    with console.status("looking …") as status:

        def tell(check: Check) -> None:
            nonlocal done
            done += 1
            status.update(Text(f"{done}/{total} {check.subject}: {check.name}"))

        yield tell


def list_of_checks(checks: Sequence[Check]) -> RenderableType:
    """Every check by subject: its name, what it looks at, and what it must be given."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for subject, group in groupby(checks, key=lambda check: check.subject):
        table.add_row(Text(subject, style="bold"), "")
        for check in group:
            needs = f"  (with --{check.needs})" if check.needs else ""
            table.add_row(f"  {check.name}", Text.assemble(check.summary, (needs, "dim")))
    return Safe(table)


def page(chapter: Chapter) -> RenderableType:
    """A chapter of the guide."""
    parts = [Text(chapter.name, style="bold cyan"), Text(chapter.title, style="bold"), Text("")]
    if chapter.symptoms:
        parts += [Text(f"  {symptom}", style="yellow") for symptom in chapter.symptoms] + [Text("")]
    parts += [Text(chapter.why), Text(""), Text("What to do", style="bold"), Text(chapter.cure)]
    return Safe(Group(*parts))
