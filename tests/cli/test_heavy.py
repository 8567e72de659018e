"""Settings that stand before MLX is imported, seen at the moment of its import."""

import subprocess
import sys
from pathlib import Path

import pytest

# Runs `grpo` up to the moment when MLX's import begins, and prints MLX's variable then.
WATCHED = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            print("MLX_ENABLE_TF32 =", os.environ.get("MLX_ENABLE_TF32"), flush=True)
            os._exit(0)  # the rest of the command is tested elsewhere

sys.meta_path.insert(0, Watch())
from grpo_cli.cli.main import run
sys.argv = ["grpo", *sys.argv[1:]]
run()
"""
CONFIG = """
model_name = "tiny"
dataset = "arithmetic"
max_steps = 1
eval_steps = 0
eval_samples = 2
eval_max_new_tokens = 2
"""


@pytest.mark.parametrize(("key", "seen"), [("true", "0"), ("false", "None")])
@pytest.mark.parametrize("command", ["train --dry-run", "eval tiny"])
def test_exact_float32_is_set_before_mlx_is_imported(
    tmp_path: Path, command: str, key: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    (tmp_path / "c.toml").write_text(CONFIG)
    words = [*command.split(), "--config", "c.toml", "--set", f"exact_float32={key}"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"MLX_ENABLE_TF32 = {seen}\n"
