"""PEFT's LoRA adapters as mlx-lm's, and back: the same function of the same base.

PEFT keeps for a linear layer W (out, in) lora_A (r, in) and lora_B (out, r) and a scale of its own, mlx-lm
lora_a (in, R) and lora_b (R, out) with one rank R and one scale s for all:

    lora_a = lora_Aᵀ   lora_b = scale / s · lora_Bᵀ     padded with zeros from r to R

Padded ranks stay zero in training: each factor's gradient contains the other factor. A path in transformers
is that of mlx-lm, or a path with the same end from the layer's number on (`layers.3.self_attn.q_proj`).
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import one_line
from grpo_cli.models.adapter_config import LoRA, adapters_file
from grpo_cli.models.model_files import header_problem
from grpo_cli.models.peft_config import PeftConfig, not_converted
from grpo_cli.models.tree import flat

PREFIX = "base_model.model."
PART = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)")

Arrays = dict[str, mx.array]


@dataclass(frozen=True, kw_only=True)
class StoredAdapters:
    """Adapters read from a folder, under mlx-lm's names. `saved`: whole parameters of the base, replaced."""

    lora: LoRA
    weights: Arrays
    saved: Arrays = field(default_factory=dict)


def read_peft(model: nn.Module, folder: Path, config: PeftConfig) -> StoredAdapters:
    """PEFT adapters for a model without adapters.

    Raises ModelError for a damaged file, and for a module that the model lacks or cannot adapt.
    """
    path = adapters_file(folder)
    if problem := header_problem(path):
        raise ModelError(f"{problem.path} {problem.text}", "copy the folder again", trouble="model-files")
    loaded: Any = mx.load(str(path))
    parts, others = _sorted_out(loaded, folder)
    targets = {module: _target(model, module, folder) for module in parts}
    for module, path_here in targets.items():
        _check(model, module, path_here, parts[module], config, folder)
    ranks = {module: _rank(part) for module, part in parts.items()}
    scales = {module: config.scale_of(module, ranks[module]) for module in parts}
    if not parts:
        raise not_converted(folder, "a file without LoRA tensors")
    scale = Counter(scales.values()).most_common(1)[0][0]
    rank = max(ranks.values())
    weights: Arrays = {}
    for module, part in parts.items():
        weights |= _weights(targets[module], part, scales[module] / scale, rank)
    lora = LoRA(
        rank=rank,
        scale=scale,
        kind="dora" if config.use_dora else "lora",
        keys=_keys(model, set(targets.values())),
    )
    return StoredAdapters(lora=lora, weights=weights, saved=_saved(model, others, folder))


def _sorted_out(loaded: Arrays, folder: Path) -> tuple[dict[str, Arrays], Arrays]:
    """The adapters' parts by module, and the other tensors by their path in the model."""
    parts: dict[str, Arrays] = {}
    others: Arrays = {}
    for name, array in loaded.items():
        if not name.startswith(PREFIX):
            raise not_converted(folder, f"the tensor {one_line(name)[:100]}")
        inner = name.removeprefix(PREFIX)
        if match := PART.fullmatch(inner):
            parts.setdefault(match[1], {})[match[2]] = array.astype(mx.float32)
        else:
            others[WRAPPERS.sub("", inner)] = array
    return parts, others


def _rank(part: Arrays) -> int:
    """The rank of a module's adapter: the rows of its A."""
    return int((part["lora_A"] if "lora_A" in part else part["lora_embedding_A"]).shape[0])


def _target(model: nn.Module, module: str, folder: Path) -> str:
    """The path of a module of transformers in the model. Raises ModelError if there is none."""
    names = {name for name, _ in model.named_modules()}
    if module in names:
        return module
    numbered = re.search(r"[^.]+\.\d+\..*", module)
    end = numbered[0] if numbered else module.rpartition(".")[2]
    found = [name for name in names if name.endswith(f".{end}") or name == end]
    if len(found) != 1:
        raise not_converted(folder, f"the module {one_line(module)[:100]}")
    return found[0]


def _check(model: nn.Module, module: str, path: str, part: Arrays, config: PeftConfig, folder: Path) -> None:
    """Raise ModelError unless the module is a linear layer, or an untied embedding with LoRA."""
    names = dict(model.named_modules())
    here, shown = names[path], one_line(module)[:100]
    wanted = {"lora_A", "lora_B"}
    if isinstance(here, nn.Embedding | nn.QuantizedEmbedding):
        wanted = {"lora_embedding_A", "lora_embedding_B"}
        if is_tied(model):
            raise not_converted(folder, f"adapters on {shown} alone, which this model shares with its head")
    elif not isinstance(here, nn.Linear | nn.QuantizedLinear):
        raise not_converted(folder, f"adapters on {shown}, a {type(here).__name__}")
    elif config.use_dora:
        wanted = {*wanted, "lora_magnitude_vector"}
    if set(part) != wanted:
        raise not_converted(folder, f"{shown} with {', '.join(sorted(part))}")
    for name, array in part.items():
        if array.ndim != 2 and name != "lora_magnitude_vector":
            raise not_converted(folder, f"{name} of {shown} in the shape {array.shape}")
    if _rank(part) != config.rank_of(module):
        told = f"rank {_rank(part)} of {shown}, for which adapter_config.json says {config.rank_of(module)}"
        raise not_converted(folder, told)


def is_tied(model: nn.Module) -> bool:
    """True if the model has no output layer of its own: its embedding is used for it, too."""
    return not any(name.rpartition(".")[2] == "lm_head" for name, _ in model.named_modules())


def _weights(path: str, part: Arrays, factor: float, rank: int) -> Arrays:
    """A module's arrays under mlx-lm's names, padded to `rank`."""
    kind = "embedding_" if "lora_embedding_A" in part else ""
    a, b = part[f"lora_{kind}A"].T, factor * part[f"lora_{kind}B"].T  # (in, r), (r, out)
    more = rank - a.shape[1]
    found = {
        f"{path}.lora_a": mx.pad(a, [(0, 0), (0, more)]),
        f"{path}.lora_b": mx.pad(b, [(0, more), (0, 0)]),
    }
    if "lora_magnitude_vector" in part:
        found[f"{path}.m"] = part["lora_magnitude_vector"].reshape(-1)
    return found


def _keys(model: nn.Module, paths: set[str]) -> tuple[str, ...]:
    """mlx-lm's `keys`: names within a layer if all layers have the same, else the whole paths.

    mlx-lm compares a key with both, so whole paths adapt exactly the modules they name.
    """
    layers = [f"{name}." for name in layer_paths(model)]
    inner = [{path.removeprefix(layer) for path in paths if path.startswith(layer)} for layer in layers]
    regular = inner and all(one == inner[0] for one in inner) and len(paths) == len(layers) * len(inner[0])
    return tuple(sorted(inner[0] if regular else paths))


def layer_paths(model: nn.Module) -> list[str]:
    """The path of each layer, in order: `model.layers.0`, …"""
    by_identity = {id(module): name for name, module in model.named_modules()}
    return [by_identity[id(layer)] for layer in model.layers]


def _saved(model: nn.Module, others: Arrays, folder: Path) -> Arrays:
    """Parameters of `modules_to_save` that differ from the base's, by their path here."""
    parameters = flat(model.parameters())
    found: Arrays = {}
    for name, array in others.items():
        module, _, leaf = name.rpartition(".")
        path = f"{_target(model, module, folder)}.{leaf}"
        if path not in parameters or isinstance(
            dict(model.named_modules())[path.rpartition(".")[0]], nn.QuantizedLinear | nn.QuantizedEmbedding
        ):
            raise not_converted(folder, f"the saved module {one_line(name)[:100]}")
        if parameters[path].shape != array.shape:
            raise not_converted(folder, f"{one_line(name)[:100]} of the shape {array.shape}")
        if not mx.array_equal(parameters[path].astype(mx.float32), array.astype(mx.float32)):
            found[path] = array
    embeddings = [name for name in found if name.rpartition(".")[0].endswith(("embed_tokens", "wte"))]
    if embeddings and is_tied(model):
        told = f"{embeddings[0]} saved by itself, which this model shares with its head"
        raise not_converted(folder, told)
    return found


# --- back to PEFT -------------------------------------------------------------------------------------


def to_peft(weights: Arrays, embeddings: Collection[str] = ()) -> Arrays:
    """Adapters under mlx-lm's names as PEFT's tensors; lora_alpha = s · rank gives the same scale.

    `embeddings`: the paths of those on an embedding.
    """
    found: Arrays = {}
    for path in sorted({name.rpartition(".")[0] for name in weights}):
        a, b = weights[f"{path}.lora_a"].T, weights[f"{path}.lora_b"].T  # (R, in), (out, R)
        names = (
            ("lora_embedding_A", "lora_embedding_B")
            if path in embeddings
            else ("lora_A.weight", "lora_B.weight")
        )
        for name, array in zip(names, (a, b), strict=True):
            found[f"{PREFIX}{path}.{name}"] = mx.contiguous(array)
        if f"{path}.m" in weights:
            found[f"{PREFIX}{path}.lora_magnitude_vector"] = weights[f"{path}.m"]
    return found
