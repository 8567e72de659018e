"""Resolve a model's name to a local folder and its config.json, without downloading or loading anything.

    positions(model_config("tiny"))     # 256

A model folder is untrusted: unreadable files and non-numeric values count as unknown.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_cli.errors import ConfigError, ModelError
from grpo_cli.files import expanded_name
from grpo_cli.foreign_text import quoted
from grpo_cli.untrusted_json import DamagedFile, read_object

MOST_BYTES = 4_000_000  # limit for config.json; real files are below 0.1 MB
ADAPTER_CONFIG = "adapter_config.json"  # a folder of adapters has it
LARGEST = 1 << 40  # a larger number of positions is not credible


def local_folder(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """A model's folder: a path, `tiny`, or a snapshot in the hub cache; None if it is not on this machine."""
    try:
        folder = Path(expanded_name(name))
        if name == "tiny":
            return Path(__file__).parents[1] / "models" / "tiny"
        return folder if folder.is_dir() else _cached(name, environment)
    except (OSError, ValueError, RuntimeError, ConfigError):  # too long, contains NUL, or an unknown ~user
        return None


def _cached(name: str, environment: Mapping[str, str]) -> Path | None:
    """The newest snapshot of a repository in the hub cache."""
    cache = hub_cache(environment)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        return None
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    if not snapshots.is_dir():
        return None
    found = sorted(
        (folder for folder in snapshots.iterdir() if (folder / "config.json").is_file()),
        key=lambda folder: folder.stat().st_mtime,
    )
    return found[-1] if found else None


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The hub library's download folder, from its environment variables."""
    home = environment.get("HF_HOME") or str(
        Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return Path(environment.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()


def model_config(name: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The contents of config.json, with a multimodal model's text_config merged over it; empty if unknown."""
    folder = local_folder(name, environment)
    return read_config(folder) if folder else {}


def read_config(folder: Path) -> dict[str, Any]:
    """Contents of a folder's config.json, in the form that `model_config` returns."""
    try:
        content = read_object(folder / "config.json", MOST_BYTES)
    except (OSError, DamagedFile):
        return {}
    text = content.pop("text_config", None)
    return {**content, **text} if isinstance(text, dict) else content


def positions(config: Mapping[str, Any]) -> int | None:
    """Maximum tokens per row; None if config.json does not give it or RoPE scaling extends it."""
    if config.get("rope_scaling"):
        return None
    return _count(config, "max_position_embeddings", "n_positions", "sequence_len")


def _count(config: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST:
            return value
    return None


def check_name(name: str) -> None:
    """Raise ModelError for a name that is not a folder, a hub repository or `tiny`."""
    path = Path(expanded_name(name))
    if name == "tiny" or path.is_dir():
        return
    if path.name == "final" or path.name.startswith("checkpoint-"):
        there = sorted(str(child) for child in path.parent.glob("*/") if (child / "config.json").exists())
        listed = f"available: {', '.join(there)}" if there else f"{path.parent} contains no checkpoint"
        raise ModelError(f"Checkpoint not found: {name}", listed, trouble="checkpoint-not-found")
    first = name.partition("/")[0]  # Path would drop the leading ./ of ./model
    is_local = first in ("models", "outputs", "checkpoints", ".", "..", "~", "") or Path(first).is_dir()
    if name.count("/") != 1 or is_local:
        raise ModelError(f"Model not found: {name}", _hint_for(name), trouble="model-not-found")


def is_possible(name: str) -> bool:
    """True for a folder, `tiny`, and a name that the hub could have."""
    try:
        check_name(name)
    except (OSError, ValueError, RuntimeError, ConfigError, ModelError):  # as in local_folder
        return False
    return True


def _hint_for(name: str) -> str:
    """The hint for a name that is not a model."""
    path = Path(name)
    if path.parts[:1] == ("models",) and path.name.endswith("-mlx"):
        return f"create it: `grpo convert {quoted(path.name.removesuffix('-mlx'))}`"
    near = difflib.get_close_matches(name, ["tiny"])
    return (
        "did you mean `tiny`? " if near else ""
    ) + "a model is a folder, a hub repository (owner/name) or `tiny`, the embedded model"
