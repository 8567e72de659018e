"""Run checks of the doctor on a machine whose MLX is known to work: no probe, no second process."""

import json
import shutil
from pathlib import Path
from typing import Any

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.run import diagnose
from grpo_cli.doctor.table import CHECKS

TINY = Path(__file__).parents[2] / "grpo_cli/models/tiny"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer.pkl", "tokenizer_config.json")


class Here(Context):
    """A context on a machine where MLX works."""

    @property
    def probe(self) -> dict[str, Any]:  # type: ignore[override]
        return {"product_right": True}


def look(context: Context, *names: str) -> list[Finding]:
    """What the checks of these names find; none may crash."""
    found = list(diagnose(context, [check for check in CHECKS if check.name in names]))
    assert [finding.seen for finding in found if "the check itself failed" in finding.seen] == []
    return found


def at(folder: Path, name: str) -> Finding:
    """The one finding of a check on a model's folder."""
    (finding,) = look(Here(model=str(folder)), name)
    return finding


def tiny_copy(folder: Path, *without: str) -> Path:
    """The embedded model in a folder of its own, without the files that are named."""
    folder.mkdir(parents=True)
    for name in set(MODEL_FILES) - set(without):
        shutil.copyfile(TINY / name, folder / name)
    return folder


def fast_copy(folder: Path, change: Any = lambda _: None, **settings: Any) -> Path:
    """The embedded model with a Hugging Face tokenizer only: `change` edits tokenizer.json's content."""
    tiny_copy(folder, "tokenizer.pkl")
    for name, edit in (("tokenizer.json", change), ("tokenizer_config.json", lambda c: c.update(settings))):
        content = json.loads((folder / name).read_text())
        edit(content)
        (folder / name).write_text(json.dumps(content))
    return folder


def seen(finding: Finding) -> tuple[str, str]:
    return finding.severity, finding.seen
