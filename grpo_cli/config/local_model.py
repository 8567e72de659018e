"""What a model's name stands for, and its config.json where it is here; nothing is downloaded or loaded.

    positions(model_config("tiny"))     # 256

A model folder may come from anywhere: what cannot be read, or is no number, is not known.
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

MOST_BYTES = 4_000_000  # of a config.json; real ones are below 0.1 MB
LARGEST = 1 << 40  # more positions than that are no fact about a model


def local_folder(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of a model: given as such, `tiny`, or in the hub's cache; None: it is not here."""
    try:
        folder = Path(expanded_name(name))
        if name == "tiny":
            return Path(__file__).parents[1] / "models" / "tiny"
        return folder if folder.is_dir() else _cached(name, environment)
    except (OSError, ValueError, RuntimeError, ConfigError):  # too long, a NUL in it, or an unknown ~user
        return None


def _cached(name: str, environment: Mapping[str, str]) -> Path | None:
    """The newest snapshot of a repository in the hub's cache."""
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
    """The folder that the hub's library downloads to, as its environment variables say."""
    home = environment.get("HF_HOME") or str(
        Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return Path(environment.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()


def model_config(name: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What config.json says, the text part of a larger model over it; empty where it is not known."""
    folder = local_folder(name, environment)
    return read_config(folder) if folder else {}


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json as `model_config` gives it."""
    try:
        content = read_object(folder / "config.json", MOST_BYTES)
    except (OSError, DamagedFile):
        return {}
    text = content.pop("text_config", None)
    return {**content, **text} if isinstance(text, dict) else content


def positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens a row may have; None where it is not said, or stretched by a scaling of RoPE."""
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
    """Raise ModelError at once for a name that is neither a folder nor a repository, nor `tiny`."""
    path = Path(expanded_name(name))
    if name == "tiny" or path.is_dir():
        return
    if path.name == "final" or path.name.startswith("checkpoint-"):
        there = sorted(str(child) for child in path.parent.glob("*/") if (child / "config.json").exists())
        listed = f"there are {', '.join(there)}" if there else f"{path.parent} holds no checkpoint"
        raise ModelError(f"Checkpoint not found: {name}", listed, trouble="checkpoint-not-found")
    first = name.partition("/")[0]  # Path would drop the dot of ./model
    is_local = first in ("models", "outputs", "checkpoints", ".", "..", "~", "") or Path(first).is_dir()
    if name.count("/") != 1 or is_local:
        raise ModelError(f"Model not found: {name}", _hint_for(name), trouble="model-not-found")


def _hint_for(name: str) -> str:
    """What a name that is no model may have been meant to be."""
    path = Path(name)
    if path.parts[:1] == ("models",) and path.name.endswith("-mlx"):
        return f"make it: `grpo convert {quoted(path.name.removesuffix('-mlx'))}`"
    near = difflib.get_close_matches(name, ["tiny"])
    return (
        "did you mean `tiny`? " if near else ""
    ) + "a model is a folder, a hub repository (owner/name) or `tiny`, the embedded one"
