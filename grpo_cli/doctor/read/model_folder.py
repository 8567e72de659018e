"""A model's folder, read without MLX: config.json, the weights' headers, its origin."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_cli.config.local_model import local_folder
from grpo_cli.doctor.read.hub import is_repository
from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapter_config import read_adapter_config
from grpo_cli.models.model_files import config_of, tensors_in
from grpo_cli.models.safetensors_header import Tensor

ADAPTERS = "adapters.safetensors"
EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "lm_head.weight")  # a row per token id
NANOCHAT_TOKENS = 65536  # of d20, d32 and d34
NANOCHAT_WIDTH = 64  # channels for each layer
SOURCES = {
    "nanochat-d20": "sdobson/nanochat",
    "nanochat-d32": "karpathy/nanochat-d32",
    "nanochat-d34": "karpathy/nanochat-d34",
}


def rows_of(folder: Path) -> int | None:
    """Rows of the largest embedding table, else config.json's vocab_size; None if neither is known."""
    tables = [
        tensor.shape[0]
        for name, tensor in tensors_in(folder).items()
        if name.endswith(EMBEDDINGS) and len(tensor.shape) == 2
    ]
    size = config_of(folder).get("vocab_size")
    return max(tables, default=size if isinstance(size, int) else None)


def bits_of(config: dict[str, Any]) -> int:
    """Bits per weight of a quantised model; 0 for any other model."""
    settings = config.get("quantization")
    bits = settings.get("bits") if isinstance(settings, dict) else None
    return bits if isinstance(bits, int) and 0 < bits <= 8 else 0


def unpacked_numbers(tensors: Iterable[Tensor], bits: int) -> int:
    """Number of weights after unpacking: a 32-bit word holds 32 / `bits` of them; scales are not packed."""
    return sum(
        tensor.size * 32 // bits if bits and tensor.dtype == "U32" else tensor.size for tensor in tensors
    )


def base_folder(folder: Path | None, environment: Mapping[str, str]) -> Path:
    """The folder with a model's full weights: its own, or that of the model its adapters belong to.

    Raises ModelError if that is not on this machine.
    """
    if folder is None:
        raise ModelError("The model is not on this machine", "name its folder", trouble="model-not-found")
    if not (folder / "adapter_config.json").exists():
        return folder
    name = read_adapter_config(folder).model
    base = local_folder(name, environment)
    if base is None:
        raise ModelError(
            f"Model not found: {name}: the adapters in {folder} were trained on it",
            f"restore it, or write its new place into `model` of {folder / 'adapter_config.json'}",
            trouble="model-not-found",
        )
    return base


def expected_tokens(folder: Path) -> tuple[str, int] | None:
    """Name and vocabulary size of Karpathy's nanochat models, known by layers and width; None for others."""
    config = config_of(folder)
    layers, width = config.get("num_hidden_layers"), config.get("hidden_size")
    is_nanochat = str(config.get("model_type", "")).startswith("nanochat")
    name = f"nanochat-d{layers}"
    if is_nanochat and name in SOURCES and isinstance(layers, int) and width == NANOCHAT_WIDTH * layers:
        return name, NANOCHAT_TOKENS
    return None


def repository_of(folder: Path, named: str | None) -> str | None:
    """The hub's name of a model: from its folder in the hub's cache, else as `named`; None if unknown."""
    for parent in folder.parents:
        if found := re.fullmatch(r"models--(\w[\w.-]*?)--([\w.-]+)", parent.name):
            return f"{found[1]}/{found[2]}"
    return named if named and is_repository(named) else None


def present(folder: Path, first: str, *others: str) -> tuple[str, ...]:
    """The first file's name, and those of the others that the folder has."""
    return (first, *(name for name in others if (folder / name).exists()))


def template_files(folder: Path) -> tuple[str, ...]:
    """The files that can hold a chat template."""
    return present(folder, "tokenizer_config.json", "chat_template.jinja")


def fetch_again(folder: Path, files: str | Sequence[str], named: str | None) -> list[str]:
    """The command that fetches one or several files of a model again; `named`: as the user named it."""
    file = quoted(files) if isinstance(files, str) else " ".join(quoted(name) for name in files)
    repository = repository_of(folder, named)
    if repository:
        return [f"hf download {repository} {file} --force-download"]
    if (folder / "manifest.json").exists():
        return [f"grpo doctor --run {quoted(folder.parent)}"]
    known = expected_tokens(folder) if files == "tokenizer.pkl" else None  # converted from the hub's
    name = SOURCES[known[0]] if known else "OWNER/NAME"
    return [f"hf download {name} {file} --local-dir {quoted(folder)}"]
