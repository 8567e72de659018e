"""Events of a run beside its steps: the marks on the curves, and the list of them.

    marks_of([run])
    # [{"step": 121, "kind": "interruption", "text": "02:14 GPU timeout in the update: …"}, …]

Skipped updates, flags and what was done under pressure are in the log; interruptions and resumes are in
incidents.jsonl, which is never shortened.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from grpo_cli.engine.run_dir.incidents import PRESSURES, RESUMED, Incident, spent, told
from grpo_cli.foreign_text import one_line
from grpo_cli.report.read import RunRecord

MOST_MARKS = 200
MOST_TEXTS = 8  # of a line's flags or actions
LONGEST_NAME = 60  # characters of a metric, a flag, an action
LONGEST_TEXT = 240  # of an incident
CLEARED = "cache cleared"  # the only action under pressure that is in the log alone


class Kind(NamedTuple):
    """A kind of mark: its sign on the curves, its color in page.css, and its word."""

    name: str
    sign: str
    color: str
    word: str


KINDS = (
    Kind("interruption", "■", "--bad", "interruption"),
    Kind("resume", "▶", "--good", "resume"),
    Kind("pressure", "◆", "--c3", "action under pressure"),
    Kind("skipped", "×", "--bad", "skipped update"),
    Kind("flag", "▲", "--warn", "flag"),
)


def marks_of(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The marks by step, with the run's name if there are several."""
    found = []
    for run in runs:
        of = f"{run.name}: " if len(runs) > 1 else ""
        marks = [mark_of_incident(incident) for incident in run.incidents]
        has_pauses = any(mark["kind"] == "pressure" for mark in marks)  # then the log's are the same ones
        marks += [mark for line in run.steps for mark in marks_of_line(line, has_pauses)]
        found += [{**mark, "text": of + mark["text"]} for mark in marks]
    return sorted(found, key=lambda mark: int(mark["step"]))[:MOST_MARKS]


def marks_of_line(line: dict[str, Any], has_pauses: bool = False) -> list[dict[str, Any]]:
    """The marks of a step's line. `has_pauses`: pauses and smaller batches are recorded as incidents."""
    flags, actions = texts(line.get("flags")), texts(line.get("machine_actions"))
    actions = [action for action in actions if action == CLEARED or not has_pauses]
    marks = {
        "pressure": "; ".join(actions),
        "skipped": line["skipped"] if isinstance(line.get("skipped"), str) else "",
        "flag": "; ".join(flag for flag in flags if flag != "skipped update"),
    }
    return [
        {"step": line["step"], "kind": kind, "text": label(text, LONGEST_TEXT)}
        for kind, text in marks.items()
        if text
    ]


def texts(values: Any) -> list[str]:
    """The texts of a list from a log, bounded."""
    return (
        [label(value) for value in values if isinstance(value, str)][:MOST_TEXTS]
        if isinstance(values, list)
        else []
    )


def mark_of_incident(incident: Incident) -> dict[str, Any]:
    """An incident with its time and what it cost."""
    others = {RESUMED: "resume", **dict.fromkeys(PRESSURES.values(), "pressure")}
    kind = others.get(incident.kind, "interruption")
    where = f" in {incident.place}" if incident.place else ""
    lost = f" ({spent(incident.seconds)} lost)" if incident.seconds >= 1 else ""
    words = incident.done if kind == "resume" else f"{incident.kind}{where}: {incident.done}"
    return {
        "step": max(0, incident.step),
        "kind": kind,
        "text": label(f"{when(incident)}{words}{lost}", LONGEST_TEXT),
    }


def when(incident: Incident) -> str:
    """The day and the time of an incident: `2026-03-01 02:14 `; empty if it is not known."""
    day, _, time = incident.time.partition("T")
    return f"{day} {time[:5]} " if time else ""


def headline(run: RunRecord) -> str:
    """The number and kinds of a run's interruptions and the time lost; empty without any."""
    return next(iter(told(run.incidents)), "")


def label(key: str, longest: int = LONGEST_NAME) -> str:
    """A text from a log, on one line and bounded."""
    line = one_line(key)
    return line if len(line) <= longest else line[: longest - 1] + "…"
