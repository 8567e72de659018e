"""The completions of a page: what is shown of each, and how many fit.

    shown = completions_of(runs, room=1_600_000)
    shown["prompts"][shown["rows"][0]["prompt"]]

Of a step whose rollouts are kept, whole groups are shown with their tokens; of others what completions.jsonl
has.
Texts are a model's, so they are foreign: control characters become visible here, and the page inserts them
as text only. Beyond the room in bytes, whole steps are left out at equal distances, and the page says so.
"""

import json
from collections.abc import Sequence
from typing import Any

from grpo_cli.doctor.read.run_log import number
from grpo_cli.foreign_text import visible, well_formed
from grpo_cli.report.charts import rounded
from grpo_cli.report.embed import json_for_html
from grpo_cli.report.marks import label
from grpo_cli.report.read import RunRecord, is_step
from grpo_cli.report.tokens import packed_tokens
from grpo_cli.rewards.answers import extract_answer, is_right

LONGEST_TEXT = 6_000  # characters of a completion or a prompt; more are cut with a word
MOST_REWARDS = 20
CORRECTNESS = "correctness"  # the built-in reward for right answers
MOST_ROWS = 20_000  # examined
ROOM = 2_500_000  # bytes of JSON
FIELDS = (
    "run", "step", "prompt", "answer", "text", "right", "stop", "reward", "advantage", "tokens", "turns",
    "tool_calls", "group", "lengths", "levels",
)  # fmt: skip

Row = dict[str, Any]


def completions_of(runs: Sequence[RunRecord], room: int = ROOM) -> dict[str, Any]:
    """Prompts, rows and the number of all completions: {"prompts": […], "rows": […], "all": 4000}."""
    prompts: dict[str, int] = {}
    lines = [(index, line) for index, run in enumerate(runs) for line in lines_of(run)]
    made = [(row_of(line, runs[index], index, prompts), line) for index, line in lines]
    rows = [row for row, _ in made if row is not None]
    sources = {id(row): line for row, line in made}
    total = len(lines) + sum(max(0, len(run.completions) - MOST_ROWS) for run in runs)
    texts = [*prompts]
    kept = fitting(rows, texts, room)
    used = sorted({row["prompt"] for row in kept})
    renumbered = {old: new for new, old in enumerate(used)}
    for row in kept:  # only now: reading an answer takes most of the time
        row["right"] = rightness(sources[id(row)], runs[row["run"]])
        row["prompt"] = renumbered[row["prompt"]]
    return {"prompts": [texts[old] for old in used], "rows": kept, "all": total}


def lines_of(run: RunRecord) -> list[Row]:
    """The rollouts that are kept, and the logged completions of all other steps."""
    kept = {line.get("step") for line in run.rollouts}
    return [*(line for line in run.completions[:MOST_ROWS] if line.get("step") not in kept), *run.rollouts]


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
        "right": False,  # completions_of sets it for those that are shown
        "stop": label(str(line.get("stop_reason") or "")),
        **{key: rounded(number(line, key)) for key in ("reward", "advantage", "tokens")},
    }
    numbers = {key: number(line, key) for key in ("turns", "tool_calls", "group")}
    if numbers["turns"] == 1 and not numbers["tool_calls"]:  # no environment took part
        numbers["turns"] = numbers["tool_calls"] = None
    row |= {key: rounded(value) for key, value in numbers.items() if value is not None}
    return row | tokens_of(line, run)


def tokens_of(line: Row, run: RunRecord) -> Row:
    """The lengths and logprobs of a rollout's tokens; {} without them."""
    if "tokens_list" not in line:
        return {}
    prefix = run.settings.get("completion_prefix")
    found = packed_tokens(line, prefix if isinstance(prefix, str) else "", LONGEST_TEXT)
    return {"lengths": found[0], "levels": found[1]} if found else {}


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
    names = run.settings.get("reward_functions")
    if isinstance(names, list) and CORRECTNESS in names and isinstance(rewards, dict):
        # That reward has read the answer already; it does not count one without its tags.
        score = number(rewards, CORRECTNESS)
        if score or (score is not None and extract_answer(text) is not None):
            return score > 0
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
    sizes = {id(row): size_of([row], prompts, with_prompts=False) for row in rows}
    asked = [size_of_text(prompt) for prompt in prompts]

    def size(of: list[Row]) -> int:
        return sum(sizes[id(row)] for row in of) + sum(
            asked[index] for index in {row["prompt"] for row in of}
        )

    steps = sorted({row["step"] for row in rows})
    kept, stride = rows, max(1, size(rows) // room)
    while kept and size(kept) > room and stride < len(steps):
        stride += 1
        chosen = {*steps[::-1][::stride], steps[0]}
        kept = [row for row in rows if row["step"] in chosen]
    while kept and size(kept) > room:  # one step alone is too large
        kept = kept[: len(kept) // 2]
    return kept


def size_of_text(text: str) -> int:
    """Bytes of a text in a page."""
    return len(json_for_html(text).encode()) + 1


def size_of(rows: Sequence[Row], prompts: Sequence[str], with_prompts: bool = True) -> int:
    """Bytes of rows in a page, without the names of the fields, and of their prompts."""
    used = {row["prompt"] for row in rows} if with_prompts else set[int]()
    return len(json_for_html([packed(rows)["rows"], [prompts[index] for index in used]]).encode())


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
