"""Policy for running third-party code: only with the user's explicit consent.

Models, checkpoints, runs and datasets may come from anybody. Names in their files are looked up in lists of
installed modules (models, tokenizers) or of our own (rewards). Nothing else is ever imported:

- `model_type` of config.json: a module of mlx-lm or one of ours (models/classes.py). `model_file`, by which a
  model requests other code, is refused unless it names our own file.
- `tokenizer_class`, `auto_map`: a tokenizer of transformers (models/tokenizer_files.py). Code in the folder
  runs only with `grpo convert --trust-remote-code`, which writes a folder that needs none.
- `reward_functions`, `tools`, `environment`: built-in ones always; a file only if the user named it, in a
  configuration given on the command line or in $MLX_GRPO_CONFIG, or by `--set`. `grpo eval` and `grpo
  generate` skip files named only by a model's folder. `grpo resume` runs files that the user named before on
  this computer, and refuses others.

Folders written by this program never name code other than its own.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from grpo_cli.errors import CheckpointError, ModelError

# Keys with which a file of transformers or mlx-lm can name a module to import.
CODE_KEYS = frozenset({"auto_map", "model_file", "custom_pipelines", "custom_generate", "trust_remote_code"})
NOT_RUN = "such code is not run: look for a version of the model that mlx-lm and transformers support"


def without_code(content: Any) -> Any:
    """The content of a JSON file without the keys that name code, at any depth."""
    if isinstance(content, Mapping):
        return {key: without_code(value) for key, value in content.items() if key not in CODE_KEYS}
    return [without_code(item) for item in content] if isinstance(content, list) else content


def without_code_in(content: bytes) -> bytes:
    """The bytes of a JSON file without the keys that name code; unchanged if it has none.

    Raises ValueError for bytes that are not JSON.
    """
    document = json.loads(content)
    clean = without_code(document)
    if clean == document:
        return content
    return (json.dumps(clean, indent=2) + "\n").encode("ascii")


def refuse_model_file(config: Mapping[str, Any], folder: Path, own: str | None) -> None:
    """Raise ModelError if `model_file` in config.json names code that is not ours.

    `own`: the file that this program writes for a model of this type.
    """
    named = config.get("model_file")
    if named is not None and named != own:
        raise ModelError(
            f"The model in {folder} needs code of its own: `model_file` is {repr(named)[:80]}",
            NOT_RUN,
            trouble="own-code",
        )


def check_listed(name: object, listed: Collection[str], key: str, folder: Path) -> None:
    """Raise ModelError if a model's file names a class that is not in `listed`."""
    if name is not None and (not isinstance(name, str) or name not in listed):
        raise ModelError(
            f"`{key}` of the model in {folder} is {repr(name)[:80]}, "
            "which is not on the list of allowed names",
            NOT_RUN,
            trouble="own-code",
        )


# --- rewards in files --------------------------------------------------------------------------------


def named_here() -> Path:
    """The file that lists the reward files named by the user on this computer, one per line."""
    return Path(typer.get_app_dir("grpo")) / "reward_files.jsonl"


def remember_rewards(files: Iterable[Path]) -> None:
    """Add files that the user named to the list. If it cannot be written, `grpo resume` asks again."""
    new = [line for line in map(_line, files) if line not in _lines()]
    with suppress(OSError):
        named_here().parent.mkdir(parents=True, exist_ok=True)
        with named_here().open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in new)


def refuse_unnamed_rewards(files: Iterable[Path], run: Path, command: str) -> None:
    """Raise CheckpointError if a run uses reward files that the user never named on this computer.

    `command`: the command of the hint, which names them.
    """
    unknown = [str(file) for file in files if _line(file) not in _lines()]
    if unknown:
        raise CheckpointError(
            f"The configuration in {run} names code that you have not named on this computer: "
            f"{', '.join(unknown)}",
            "a run's folder may come from someone else: read the file, then name it to allow it: "
            f"`{command}`",
            trouble="own-code",
        )


def _line(file: Path) -> str:
    return json.dumps(str(file.expanduser().resolve()))


def _lines() -> set[str]:
    with suppress(OSError):
        return set(named_here().read_text(encoding="utf-8").splitlines())
    return set()
