"""Run folders for the tests of report/: logs, completions and settings written by hand."""

from pathlib import Path
from typing import Any

from grpo_cli.report.read import RunRecord, read_run
from tests.support.run_logs import evaluation, steps, written

HOSTILE = [
    "<script>alert(1)</script>",
    "</textarea><img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<a href='javascript:alert(1)'>click</a>",
    "\x1b[2J\x1b]0;owned\x07 gone",
    "line\u2028separator \u2029 and <!-- comment",
    "\u202egnirts\u202c half \ud800 a pair",
]


def completion(step: int, text: str, **changes: Any) -> dict[str, Any]:
    """A line of completions.jsonl."""
    return {
        "step": step,
        "prompt": [{"role": "user", "content": "What is 1 + 2?"}],
        "answer": "3",
        "completion": text,
        "rewards": {"correctness": 2.0},
        "reward": 2.0,
        "advantage": 0.7,
        "stop_reason": "eos",
        "tokens": 12,
    } | changes


def judged(step: int, right: str) -> dict[str, Any]:
    """An evaluation with its items: "1" is right."""
    return evaluation(step, right.count("1") / len(right), len(right)) | {"eval_right": right}


def finished(folder: Path) -> Path:
    """Mark a run as finished."""
    (folder / "final").mkdir()
    (folder / "final" / "manifest.json").write_text("{}")
    return folder


def run_of(
    folder: Path, log: list[dict[str, Any]], completions: tuple[dict[str, Any], ...] = (), **settings: Any
) -> RunRecord:
    """A finished run in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return read_run(finished(written(folder, log, completions, **settings)))


def large_run(folder: Path, count: int = 1000, per_step: int = 4, length: int = 400) -> Path:
    """A run with long completions whose words differ."""
    letters = str.maketrans("0123456789", "abcdefghij")  # numbers would be read as answers, which takes long
    words = " ".join(f"word{index}" for index in range(length)).translate(letters)
    texts = (f"{step} {turn} {words}"[:length] for step in range(1, count + 1) for turn in range(per_step))
    lines = tuple(
        completion(1 + place // per_step, text, prompt=[{"role": "user", "content": f"What is {place} + 2?"}])
        for place, text in enumerate(texts)
    )
    log = [
        judged(0, "01" * 100),
        *steps(count, reward_mean=lambda step: step / count),
        judged(count, "11" * 100),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return finished(written(folder, log, lines))
