"""Terminal output of the doctor: findings, the list of checks, and a chapter.

Nothing is broken, 1 warning

memory
  ✓ memory        16.0 GB, 9.1 available
  ! wired-limit   10.7 GB for the GPU; this run needs 12.4
                  more than that is swapped …
                  fix: raise it until the next reboot
                    sudo sysctl iogpu.wired_limit_mb=12800
                  more: grpo doctor --explain wired-limit
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.terminal import Safe, is_interactive, say, stderr_console, stdout_console, typed
from grpo_cli.doctor.chapters import Chapter
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.table import Check
from grpo_cli.foreign_text import visible
from grpo_cli.words import plural

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red"), "skipped": ("–", "dim")}
NAME_WIDTH = 22


def show_findings(findings: Sequence[Finding], only_problems: bool = False) -> None:
    """Print the verdict on stdout, then every finding by subject."""
    console = stdout_console()
    width = console.width if is_interactive(console) else None
    say(console, verdict(findings))
    shown = [finding for finding in findings if finding.is_problem or not only_problems]
    for subject, found in groupby(shown, key=lambda finding: finding.subject):
        say(console, Text(f"\n{subject}", style="bold"))
        for finding in found:
            say(console, described(finding, width))


def described(finding: Finding, width: int | None = None) -> Text:
    """A finding: one line if it is fine, else with its reason, fix and chapter.

    `width`: the terminal's columns, for line breaks between words.
    """
    mark, style = MARKS[finding.severity]
    text = Text()
    text.append(f"  {mark} ", style=style)
    name = f"{finding.title or finding.name:<{NAME_WIDTH}}"
    text.append(name, style="dim" if finding.severity == "skipped" else "")
    text.append(indented(finding.seen, width))
    if finding.is_problem:
        if finding.why:
            first = finding.why.partition("\n\n")[0]  # the chapter contains the rest
            text.append(f"\n{margin()}{indented(first, width)}", style="dim")
        if finding.cure:
            text.append(f"\n{margin()}{indented(f'fix: {finding.cure}', width)}")
        for command in finding.commands:
            text.append(f"\n{command_line(command, width)}", style="cyan")
        more = typed(f"grpo doctor --explain {finding.name}")
        text.append(f"\n{margin()}more: {more}", style="dim")
    return text


def margin() -> str:
    """Indentation of a finding's continuation lines."""
    return " " * (4 + NAME_WIDTH)


def indented(text: str, width: int | None) -> str:
    """A text with its continuation lines indented, wrapped between words if there is a width."""
    lines = visible(text).split("\n")
    if width is not None:
        room = max(20, width - len(margin()))
        lines = [
            part
            for line in lines
            for part in wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
        ]
    return f"\n{margin()}".join(lines)


def command_line(command: str, width: int | None) -> str:
    """A command or line of TOML to copy: never wrapped, and indented less if it is long."""
    shown = visible(typed(command)).replace("\n", f"\n{margin()}  ")
    fits = width is None or len(margin()) + 2 + len(shown) <= width
    return f"{margin()}  {shown}" if fits else f"    {shown}"


def verdict(findings: Sequence[Finding]) -> Text:
    """The result in one line: `3 problems, 1 warning`, or `No problems found`."""
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in MARKS}
    errors, warnings = counts["error"], counts["warning"]
    if errors:
        parts = [plural(errors, "problem"), *([plural(warnings, "warning")] if warnings else [])]
        return Text(", ".join(parts), style="bold red")
    if warnings:
        return Text(f"Nothing is broken, {plural(warnings, 'warning')}", style="bold yellow")
    return Text("No problems found" if counts["ok"] else "Nothing to check", style="bold green")


@contextmanager
def looking(total: int, quiet: bool) -> Iterator[Callable[[Check], None]]:
    """Yields a function that shows the running check on a terminal; elsewhere it shows nothing."""
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
    """Every check by subject: its name, purpose, and required input."""
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
    if chapter.how:
        parts += [Text(""), Text("How it works", style="bold"), Text(chapter.how)]
    return Safe(Group(*parts))
