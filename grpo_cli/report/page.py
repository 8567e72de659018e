"""A run, or several, as one HTML page that needs no server and no network.

    text = page_of([read_run(Path("outputs/prod"))], findings=[[]])

Jinja2 renders the parts that are text (autoescaped); page.js draws the curves with uPlot and fills the
browser of completions from the JSON in the page. uPlot (MIT) is part of the package, since a page must hold
all it needs: 51 kB, where plotly's script has more than 4 MB.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grpo_cli.doctor.findings import Finding
from grpo_cli.foreign_text import visible
from grpo_cli.report.charts import MOST_POINTS, charts_of
from grpo_cli.report.compare import pairs_of, results_of, tiles_of
from grpo_cli.report.completions import completions_of, packed
from grpo_cli.report.embed import content_policy, json_for_html
from grpo_cli.report.machines import machine_rows
from grpo_cli.report.marks import KINDS, MOST_MARKS, headline, label, marks_of
from grpo_cli.report.read import RunRecord
from grpo_cli.report.rollouts import MOST_ROWS, MOST_STEPS
from grpo_cli.report.sentence import result_of
from grpo_cli.report.settings import commands_of, differing, settings_rows
from grpo_cli.report.tokens import ALPHABET

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "report.html"  # in a run's folder
GENERATOR = "grpo report"
SCRIPTS = ("uPlot.iife.min.js", "page.js")
STYLES = ("uPlot.min.css", "page.css")
MOST_FINDINGS = 30
LARGEST = 3_000_000  # bytes of a page
REST = 300_000  # of them for scripts, styles, and the parts that are text
SMALLEST_ROOM = 500_000  # for completions


def page_of(runs: Sequence[RunRecord], findings: Sequence[Sequence[Finding]], refresh: int = 0) -> str:
    """The page's HTML. `findings`: the doctor's of each run. `refresh`: seconds until it reloads, or 0."""
    charts = charts_of(runs)
    room = LARGEST - REST - len(json_for_html(charts).encode())
    completions = completions_of(runs, max(room, SMALLEST_ROOM))
    marks = marks_of(runs)
    data = {
        "kind": "Run",
        "runs": [label(run.name) for run in runs],
        "charts": charts,
        "marks": marks,
        "kinds": {kind.name: [kind.sign, kind.color] for kind in KINDS},
        "alphabet": ALPHABET,
        "completions": {"prompts": completions["prompts"], **packed(completions["rows"])},
        "refresh": refresh,
    }
    return render(
        "page.html",
        title=" · ".join(label(run.name) for run in runs),
        runs=[run_words(run, found) for run, found in zip(runs, findings, strict=True)],
        kind="Run",
        names=data["runs"],
        charts=charts,
        marks=marks,
        kinds=[kind for kind in KINDS if any(mark["kind"] == kind.name for mark in marks)],
        most_marks=MOST_MARKS,
        has_groups=any(run.rollouts for run in runs),
        most_steps=MOST_STEPS,
        most_rows=MOST_ROWS,
        completions={"shown": len(completions["rows"]), "all": completions["all"]},
        thinned=[f"{run.name}: {len(run.steps):,} steps" for run in runs if len(run.steps) > MOST_POINTS],
        results=results_of(runs) if len(runs) > 1 else [],
        differing=differing(runs) if len(runs) > 1 else [],
        pairs=pairs_of(runs) if len(runs) > 1 else [],
        data=data,
        refresh=refresh,
    )


def run_words(run: RunRecord, findings: Sequence[Finding]) -> dict[str, Any]:
    """The parts of a run that are text."""
    problems = [finding for finding in findings if finding.is_problem][:MOST_FINDINGS]
    settings = settings_rows(run.settings)
    return {
        "name": label(run.name),
        "result": result_of(run),
        "tiles": tiles_of(run),
        "findings": [finding_words(finding) for finding in problems],
        "examined": len([finding for finding in findings if finding.severity != "skipped"]),
        "settings": settings,
        "changed": [row for row in settings if row["differs"]],
        "headline": headline(run),
        "machine": machine_rows(run),
        "commands": [(purpose, visible(command)) for purpose, command in commands_of(run)],
    }


def finding_words(finding: Finding) -> dict[str, Any]:
    """A finding of the doctor with its cure."""
    return {
        "name": label(finding.name),
        "severity": finding.severity,
        "seen": visible(finding.seen),
        "why": visible(finding.why.partition("\n\n")[0]),
        "cure": visible(finding.cure),
        "commands": [visible(command) for command in finding.commands],
    }


def render(template: str, *, data: Mapping[str, Any], **words: Any) -> str:
    """A template with the page's data, scripts, styles and their policy."""
    scripts, styles = [asset(name) for name in SCRIPTS], [asset(name) for name in STYLES]
    return (
        templates()
        .get_template(template)
        .render(
            data=Markup(json_for_html(data)),
            scripts=[Markup(script) for script in scripts],
            styles=[Markup(style) for style in styles],
            policy=content_policy(scripts, styles),
            generator=GENERATOR,
            **words,
        )
    )


@cache
def templates() -> Environment:
    """The templates, with every value escaped that is not marked as safe."""
    loader = FileSystemLoader(TEMPLATES)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@cache
def asset(name: str) -> str:
    """The text of a script or style sheet."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def is_page(path: Path) -> bool:
    """True for a file that this module wrote."""
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR}"'.encode() in file.read(4096)
