"""Logs written by hand, and what the doctor finds in a run."""

import json
from pathlib import Path
from typing import Any

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.run import diagnose
from grpo_cli.doctor.table import CHECKS

RUN_CHECKS = [check for check in CHECKS if check.subject == "run"]
NAMES = [check.name for check in RUN_CHECKS]


def examine(folder: Path, asked: tuple[str, ...] = ()) -> dict[str, Finding]:
    """The findings of the run checks by name; each check gives at most one."""
    checks = [check for check in RUN_CHECKS if not asked or check.name in asked]
    findings = list(diagnose(Context(run=folder, asked=frozenset(asked)), checks))
    assert len({finding.name for finding in findings}) == len(findings)
    assert not [finding for finding in findings if "check itself failed" in finding.seen]
    json.dumps([finding.as_row() for finding in findings], allow_nan=False)
    return {finding.name: finding for finding in findings}


def troubles(found: dict[str, Finding]) -> dict[str, str]:
    """Severity of what is not well."""
    return {name: f.severity for name, f in found.items() if f.severity in ("warning", "error")}


HEALTHY = {
    "loss": 0.1,
    "lr": 1e-6,
    "grad_norm": 0.2,
    "kl": None,
    "entropy": 0.4,
    "reward_mean": 1.0,
    "reward_std": 0.5,
    "rewards/correctness": 1.0,
    "zero_std_fraction": 0.3,
    "completion_length_mean": 40.0,
    "truncated_fraction": 0.02,
    "repetition": 0.02,
    "rollout_seconds": 6.0,
    "update_seconds": 3.0,
    "step_seconds": 10.0,
    "rollout_tokens_per_second": 100.0,
    "peak_memory_gb": 4.0,
}


def steps(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Lines of a healthy run; a change is a value, or a function of the step."""
    return [
        {"step": step} | HEALTHY | {k: v(step) if callable(v) else v for k, v in changes.items()}
        for step in range(1, count + 1)
    ]


def evaluation(step: int, accuracy: float, samples: int = 200, seconds: float = 5.0) -> dict[str, Any]:
    return {"step": step, "eval_accuracy": accuracy, "eval_samples": samples, "eval_seconds": seconds}


def written(
    folder: Path,
    lines: list[dict[str, Any]],
    completions: tuple[dict[str, Any], ...] = (),
    **settings: Any,
) -> Path:
    """A run's folder with such a log; its configuration has the settings."""
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in completions))
    defaults = {"model_name": "m", "run_name": "r", "reward_functions": ["correctness"]}
    (folder / "config.toml").write_text(dump_config(Config(**(defaults | settings))))
    return folder


# A check's name, the log's lines, settings, severity, a part of the finding, and of its cure with its lines.
TroubleCase = tuple[str, list[dict[str, Any]], dict[str, Any], str, str, str]


def case_name(case: TroubleCase) -> str:
    return case[0]


def check_trouble(folder: Path, case: TroubleCase) -> None:
    """The check finds the trouble with its numbers and its cure, and no other check warns."""
    name, lines, settings, severity, seen, cure = case
    found = examine(written(folder, lines, **settings))
    assert found[name].severity == severity
    assert set(troubles(found)) <= {name, "collapse"}  # rewards that fell are told there, too
    assert seen in found[name].seen
    assert cure in " ".join([found[name].cure, *found[name].commands])
