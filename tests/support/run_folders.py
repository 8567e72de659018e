"""Run folders written by hand, without a model in them."""

import json
import os
from pathlib import Path
from typing import Any

from tests.support.run_logs import evaluation


def checkpoint(folder: Path, step: int, total: int, name: str = "", content: str = "") -> Path:
    """A checkpoint's manifest and state; the weights are `content`."""
    made = folder / (name or f"checkpoint-{step}")
    made.mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps({"version": 2, "step": step, "files": {}}))
    state = {"step": step, "total_steps": total, "started_at": "2026-11-30T10:00:00"}
    (made / "trainer_state.json").write_text(json.dumps(state))
    (made / "model.safetensors").write_text(content)
    return made


def run_folder(
    parent: Path, name: str, accuracies: tuple[float, ...] = (), steps: int = 4, changed: int = 0, **keys: Any
) -> Path:
    """A run with one evaluation after each of its first steps; `changed`: seconds since 1970."""
    folder = parent / name
    folder.mkdir(parents=True)
    settings = {"model_name": "Qwen/Qwen2.5-1.5B", "dataset": "openai/gsm8k", "max_steps": 4} | keys
    (folder / "config.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in settings.items()))
    lines: list[dict[str, Any]] = [evaluation(step, value) for step, value in enumerate(accuracies)]
    lines += [{"step": step, "reward_mean": 0.5} for step in range(1, steps + 1)]
    log = folder / "training_log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if changed:
        os.utime(log, (changed, changed))
    return folder


def finished_folder(parent: Path, name: str, **more: Any) -> Path:
    """A run of four steps with its final model."""
    folder = run_folder(parent, name, **more)
    checkpoint(folder, 4, 4, "final")
    return folder
