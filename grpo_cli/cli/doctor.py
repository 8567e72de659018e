"""`grpo doctor`: check this machine, and any configuration, model or run you name, for known problems."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_cli.cli.doing import doing
from grpo_cli.cli.output_file import OutputFile
from grpo_cli.cli.terminal import print_json, stdout_console
from grpo_cli.errors import CheckpointError, ConfigError, GrpoError, ModelError
from grpo_cli.files import chosen_path, from_here
from grpo_cli.foreign_text import visible

if TYPE_CHECKING:
    from grpo_cli.doctor.context import Context
    from grpo_cli.doctor.findings import Finding


def doctor(
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE|NAME", help="Also check this configuration.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="DIR", help="Check this model and its tokenizer.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="DIR", help="Check this checkpoint.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Check this run: its log and checkpoints.")
    ] = None,
    hosts: Annotated[
        Path | None,
        typer.Option("--hosts", metavar="FILE", help="Check these machines and the ring between them."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="Path of Python on the hosts (default: this one's path)."
        ),
    ] = None,
    starting_port: Annotated[
        int,
        typer.Option("--starting-port", metavar="N", help="First port of the ring.", min=1024, max=64000),
    ] = 32323,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Run only this check or subject; may be repeated."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the checks.")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="NAME", help="Explain a problem and how to fix it.")
    ] = None,
    problems: Annotated[
        bool, typer.Option("--problems", help="Show only warnings (!) and problems (✗).")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write a bug report in Markdown, without secrets."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find known problems and how to fix them.

    Checks this machine and whatever the options name. The exit code is 1 if something is broken (✗), 0 if
    there are only warnings (!).
    """
    with doing("looking …", shown=not as_json):
        from grpo_cli.cli.diagnosis import show_findings

    if list_:
        show_list(as_json)
        return
    if explain:
        show_chapter(explain, as_json)
        return
    with doing("looking …", shown=not as_json):
        checkpoint, run, hosts = (path and from_here(chosen_path(path)) for path in (checkpoint, run, hosts))
    context = examined_context(config, model, checkpoint, run, only or [])
    if hosts:
        context.hosts, context.python, context.starting_port = hosts, python, starting_port
        context.host_file  # noqa: B018 (an invalid host file ends the command before any check)
    file = report_file(report) if report else None
    findings = look(context, only or [], quiet=as_json)
    if file:
        write_report(file, context, findings)
    if as_json:
        print_json(as_document(findings, problems))
    else:
        show_findings(findings, problems)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(GrpoError.exit_code)


def examined_context(
    config: str | None, model: str | None, checkpoint: Path | None, run: Path | None, only: list[str]
) -> "Context":
    """The things to examine. Raises CheckpointError or ModelError if one does not exist."""
    from grpo_cli.doctor.context import Context
    from grpo_cli.doctor.read.hub import is_repository

    for folder, what in ((checkpoint, "Checkpoint"), (run, "Run")):
        if folder is not None and not folder.is_dir():
            raise CheckpointError(
                f"{folder} is a file" if folder.is_file() else f"{what} not found: {folder}",
                "give the folder of a run, or one of its checkpoints with --checkpoint",
                trouble="checkpoint-not-found",
            )
    # A run or checkpoint has its own configuration; only an explicit --config has priority over it.
    at_hand = None if run or checkpoint else os.environ.get("MLX_GRPO_CONFIG")
    context = Context(
        config_name=config or at_hand or None,
        model=model,
        checkpoint=checkpoint,
        run=run,
        asked=frozenset(only),
    )
    if model and context.model_folder is None:
        raise ModelError(
            f"Model not found: {model} is not on this machine",
            f"the doctor downloads nothing; run `hf download {model}` first"
            if is_repository(model)
            else "give a local folder, or a repository (owner/name) that is already downloaded",
            trouble="model-not-found",
        )
    return context


def look(context: "Context", only: list[str], quiet: bool) -> "list[Finding]":
    """Run the checks and show the current one on a terminal."""
    from grpo_cli.cli.diagnosis import looking
    from grpo_cli.doctor.run import chosen, diagnose

    checks = chosen(context, only)
    with looking(len(checks), quiet) as on_check:
        return list(diagnose(context, checks, on_check))


def as_document(findings: "list[Finding]", only_problems: bool = False) -> dict[str, object]:
    """The findings for `--json`: `healthy` is false if any is an error; `counts` covers all of them."""
    counts = dict.fromkeys(("ok", "warning", "error", "skipped"), 0)
    for finding in findings:
        counts[finding.severity] += 1
    return {
        "healthy": counts["error"] == 0,
        "counts": counts,
        "findings": [finding.as_row() for finding in findings if finding.is_problem or not only_problems],
    }


def show_list(as_json: bool) -> None:
    """Print every check with its purpose, by subject."""
    from grpo_cli.cli.diagnosis import list_of_checks
    from grpo_cli.doctor.table import CHECKS

    if as_json:
        rows = [
            {"name": c.name, "subject": c.subject, "summary": c.summary, "needs": c.needs} for c in CHECKS
        ]
        print_json({"checks": rows})
    else:
        stdout_console().print(list_of_checks(CHECKS))


def show_chapter(name: str, as_json: bool) -> None:
    """Print the guide's chapter on a problem. Raises ConfigError for a name without a chapter."""
    from dataclasses import asdict

    from grpo_cli.cli.diagnosis import page
    from grpo_cli.doctor.chapters import chapters, nearest

    guide, name = chapters(), name.lower()
    if name not in guide:
        near = nearest(name, list(guide))
        start = f"did you mean {' or '.join(f'`{one}`' for one in near)}? " if near else ""
        raise ConfigError(
            f"No chapter: {name}",
            f"{start}`grpo doctor --list` shows the checks; each has a chapter",
            trouble="doctor",
        )
    if as_json:
        print_json(asdict(guide[name]))
    else:
        stdout_console().print(page(guide[name]))


def report_file(named: Path) -> OutputFile:
    """The bug report's file; an earlier report may be replaced. Raises ConfigError for any other file."""
    from grpo_cli.doctor.report import is_report

    return OutputFile(
        named,
        force=False,
        cannot="Cannot write the report:",
        replace="it is not a bug report: choose another file",
        is_earlier=is_report,
    )


def write_report(file: OutputFile, context: "Context", findings: "list[Finding]") -> None:
    """Write the bug report. Raises GrpoError if the file cannot be written."""
    from grpo_cli.doctor.report import bug_report

    file.write(visible(bug_report(context, findings)))  # people read and paste it
