"""The completions of a page: what is shown of each, and how many fit.

    shown = completions_of(runs, room=1_600_000)
    shown["prompts"][shown["rows"][0]["prompt"]]

Texts are a model's, so they are foreign: control characters become visible here, and the page inserts them
as text only. Beyond the room in bytes, whole steps are left out at equal distances, and the page says so.
"""

import json
from collections.abc import Sequence
from typing import Any

from grpo_cli.doctor.read.run_log import number
from grpo_cli.foreign_text import visible, well_formed
from grpo_cli.report.charts import label, rounded
from grpo_cli.report.embed import json_for_html
from grpo_cli.report.read import RunRecord, is_step
from grpo_cli.rewards.answers import is_right

LONGEST_TEXT = 6_000  # characters of a completion or a prompt; more are cut with a word
MOST_REWARDS = 20
MOST_ROWS = 20_000  # examined
ROOM = 2_500_000  # bytes of JSON
FIELDS = (
    "run", "step", "prompt", "answer", "text", "right", "stop", "reward", "advantage", "tokens", "turns",
    "tool_calls",
)  # fmt: skip

Row = dict[str, Any]


def completions_of(runs: Sequence[RunRecord], room: int = ROOM) -> dict[str, Any]:
    """Prompts, rows and the number of all completions: {"prompts": […], "rows": […], "all": 4000}."""
    prompts: dict[str, int] = {}
    rows = [
        row
        for index, run in enumerate(runs)
        for line in run.completions[:MOST_ROWS]
        if (row := row_of(line, run, index, prompts)) is not None
    ]
    total = sum(len(run.completions) for run in runs)
    texts = [*prompts]
    kept = fitting(rows, texts, room)
    used = sorted({row["prompt"] for row in kept})
    renumbered = {old: new for new, old in enumerate(used)}
    kept = [{**row, "prompt": renumbered[row["prompt"]]} for row in kept]
    return {"prompts": [texts[old] for old in used], "rows": kept, "all": total}


def row_of(line: Row, run: RunRecord, index: int, prompts: dict[str, int]) -> Row | None:
    """One completion; None for a line without a step and a text. Adds its prompt to `prompts`."""
    text, step = line.get("completion"), line.get("step")
    if not isinstance(text, str) or not is_step(step):
        return None
    prompt = cut(prompt_text(line.get("prompt")))
    given = line.get("rewards")
    rewards = [*given.items()][:MOST_REWARDS] if isinstance(given, dict) else []
    row = {
        "run": index,
        "step": step,
        "prompt": prompts.setdefault(prompt, len(prompts)),
        "answer": cut(str(line.get("answer") or ""))[:300],
        "text": cut(text),
        "rewards": {label(str(name)): rounded(number({"r": value}, "r")) for name, value in rewards},
        "right": rightness(line, run),
        "stop": label(str(line.get("stop_reason") or "")),
        **{key: rounded(number(line, key)) for key in ("reward", "advantage", "tokens")},
    }
    more = {
        key: rounded(value) for key in ("turns", "tool_calls") if (value := number(line, key)) is not None
    }
    return row | more


def rightness(line: Row, run: RunRecord) -> bool | None:
    """True if a completion is right as in the run's evaluations; None if it is not known."""
    if isinstance(line.get("correct"), bool):  # of an evaluation
        return bool(line["correct"])
    measure, rewards = run.settings.get("eval_reward"), line.get("rewards")
    if measure:
        value = rewards.get(measure) if isinstance(rewards, dict) else None
        return None if value is None else (number({"r": value}, "r") or 0.0) > 0
    gold, text = line.get("answer"), line.get("answer_text", line.get("completion"))
    if not (isinstance(gold, str) and gold and isinstance(text, str)):
        return None
    return is_right(text[: LONGEST_TEXT * 10], gold)


def prompt_text(prompt: Any) -> str:
    """A prompt's messages as text: `user: …`; a single message of a user without its role."""
    if isinstance(prompt, str):
        return prompt
    messages = [one for one in prompt if isinstance(one, dict)] if isinstance(prompt, list) else []
    told = [(str(one.get("role", "")), one.get("content")) for one in messages[:50]]
    parts = [(role, text if isinstance(text, str) else json.dumps(text, default=repr)) for role, text in told]
    if [role for role, _ in parts] == ["user"]:
        return parts[0][1]
    return "\n".join(f"{role}: {text}" for role, text in parts)


def cut(text: str) -> str:
    """A foreign text made visible, and cut to LONGEST_TEXT characters with a word about the rest."""
    shown = visible(well_formed(text[:LONGEST_TEXT]))
    left = len(text) - LONGEST_TEXT
    return shown if left <= 0 else f"{shown}\n… ({left:,} more characters)"


def fitting(rows: list[Row], prompts: Sequence[str], room: int) -> list[Row]:
    """The rows of as many whole steps as fit into `room` bytes, at equal distances, the last one included."""
    steps = sorted({row["step"] for row in rows})
    kept, stride = rows, max(1, size_of(rows, prompts) // room)
    while kept and size_of(kept, prompts) > room and stride < len(steps):
        stride += 1
        chosen = {*steps[::-1][::stride], steps[0]}
        kept = [row for row in rows if row["step"] in chosen]
    while kept and size_of(kept, prompts) > room:  # one step alone is too large
        kept = kept[: len(kept) // 2]
    return kept


def size_of(rows: Sequence[Row], prompts: Sequence[str]) -> int:
    """Bytes of rows and their prompts in a page."""
    used = {row["prompt"] for row in rows}
    return len(json_for_html([packed(rows), [prompts[index] for index in used]]).encode())


def packed(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as lists under one list of field names, which takes half the bytes of their objects."""
    names = [*dict.fromkeys(name for row in rows for name in row["rewards"])]
    return {
        "fields": FIELDS,
        "rewards": names,
        "rows": [
            [*(row.get(name) for name in FIELDS), *(row["rewards"].get(name) for name in names)]
            for row in rows
        ],
    }
