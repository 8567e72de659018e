"""Before the wait: what is missing is told before MLX loads, and the first word is on the screen by then."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("mlx", "mlx_lm", "transformers", "datasets", "tokenizers", "torch")
RUN = f"""
import json, os, sys
from typer.testing import CliRunner
from grpo_cli.cli.main import app
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words, prog_name="grpo")
    loaded = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([result.exit_code, result.stderr, loaded]))
"""
# Ends a command at its first import of a heavy module, after saying so where a person would read.
AT_IMPORT = """
import importlib.abc, json, os, sys
blocked = sys.argv[2].split(",")
class Stop(BaseException): pass
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if any(f"{name}.".startswith(f"{one}.") for one in blocked):
            os.write(2, b"<heavy>")
            raise Stop
sys.meta_path.insert(0, Finder())
from grpo_cli.cli.main import app
for words in json.loads(sys.argv[1]):
    try:
        app(words, prog_name="grpo", standalone_mode=False)
    except Stop:
        pass
    os.write(2, b"<end>")
"""
COMMANDS = [
    ["train", "--model", "tiny", "--dataset", "arithmetic", "--run-name", "new"],
    ["resume", "outputs/old"],
    ["eval", "tiny"],
    ["generate", "--model", "tiny", "--prompt", "2 + 2?"],
    ["convert", "model"],
    ["doctor"],
    ["doctor", "--explain", "dataset"],
    ["config", "validate", "prod"],
    ["config", "show"],
    ["config", "init", "new.toml"],
    ["config", "schema"],
    ["launch", "-n", "2", "train", "prod"],
]  # fmt: skip
# What builds pydantic's schemas, or imports what does.
SCHEMAS = "grpo_cli.config,grpo_cli.distributed,grpo_cli.cli.diagnosis,grpo_cli.convert.source"
WITH_MLX = ("train", "resume", "eval", "generate", "convert")


def read_all(descriptor: int) -> bytes:
    """All that a terminal is shown, until nobody writes to it any more."""
    data = b""
    with contextlib.suppress(OSError):  # how Linux ends it
        while block := os.read(descriptor, 4096):
            data += block
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an old run and something to convert."""
    path = tmp_path_factory.mktemp("early")
    (path / "outputs/old").mkdir(parents=True)
    (path / "outputs/old/config.toml").write_text('model_name = "tiny"\n')
    (path / "model").mkdir()
    (path / "model/config.json").write_text("{}")
    (path / "file").write_text("")
    os.mkfifo(path / "pipe.jsonl")
    (path / "d20").mkdir()
    (path / "d20/model_000001.pt").write_text("")
    (path / "adapters").mkdir()
    (path / "adapters/adapter_config.json").write_text(
        '{"model": "./gone", "num_layers": 1, "lora_parameters": {"rank": 1, "scale": 1.0}}'
    )
    return path


MISSING = [
    (["train", "prod", "--run-name", "old"], "The folder outputs/old already holds a run"),
    (["train", "--model", "./gone", "--dataset", "arithmetic"], "Model not found: ./gone"),
    (["train", "--model", "owner/gone", "--dataset", "arithmetic"], "owner/gone is not in the local cache"),
    (["train", "prod", "--output-dir", "file"], "Failed to save checkpoint: Not a directory: file"),
    (["train", "--model", "tiny", "--dataset", "pipe.jsonl"], "Dataset is neither a file nor a folder: pipe"),
    (["train", "--model", "tiny", "--dataset", "/dev/null"], "Dataset is neither a file nor a folder: /dev"),
    (["eval", "tiny", "--compare", "d20"], "d20 is not a model folder: config.json is missing (found: "),
    (["train", "--model", "tiny", "--dataset", "./dta"], "Dataset not found: ./dta"),
    (["train", "prod", "--dry-run", "--dataset", "arithmatic"], "Dataset not found: arithmatic"),
    (["resume", "outputs/gone"], "Checkpoint not found: outputs/gone"),
    (["eval", "./gone"], "Model not found: ./gone"),
    (["eval", "tiny", "--compare", "outputs/old/final"], "Checkpoint not found: outputs/old/final"),
    (["eval", "tiny", "--dataset", "gone.jsonl"], "Dataset not found: gone.jsonl"),
    (["generate", "--model", "models/gone", "--prompt", "a"], "Model not found: models/gone"),
    (["generate", "--model", "adapters", "--prompt", "a"], "Model not found: ./gone: the adapters"),
    (["convert", "./gone"], "Failed to convert model: Model not found: ./gone"),
]  # fmt: skip


def test_what_is_missing_is_told_before_anything_heavy_loads(folder: Path) -> None:
    words = json.dumps([words for words, _ in MISSING])
    done = subprocess.run(
        [sys.executable, "-c", RUN, words], cwd=folder, capture_output=True, text=True, check=True
    )
    for (command, message), line in zip(MISSING, done.stdout.splitlines(), strict=True):
        code, said, loaded = json.loads(line)
        told = next(line for line in said.splitlines() if not line.startswith("! "))
        assert told.startswith(message), command
        assert (code, loaded) == (1, []), command
    assert sorted(path.name for path in (folder / "outputs").iterdir()) == ["old"]


@pytest.mark.parametrize(
    ("blocked", "commands"),
    [(SCHEMAS, COMMANDS), ("mlx", [words for words in COMMANDS if words[0] in WITH_MLX])],
)
def test_the_first_word_is_on_the_screen_before_the_wait(
    folder: Path, blocked: str, commands: list[list[str]]
) -> None:
    screen, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", AT_IMPORT, json.dumps(commands), blocked],
        cwd=folder,
        env={**os.environ, "TERM": "xterm"},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = read_all(screen).decode()
    assert child.wait() == 0
    *parts, rest = shown.split("<end>")
    assert rest == "" and len(parts) == len(commands)
    for words, part in zip(commands, parts, strict=True):
        before, found, after = part.partition("<heavy>")
        assert found and " …" in before, (words, part)
        stays = words[0] in ("train", "resume")  # above the display that follows
        assert stays or after.endswith("\x1b[1G") or not after, (words, part)
