"""Tied embeddings for those classes of mlx-lm that do not support them, such as glm4, qwen2_moe and minicpm.

    make = with_tied_head(mlx_lm.models.glm4.Model)      # make(arguments) is a model that loads tied weights

A model is tied if config.json has `"tie_word_embeddings": true`: its output matrix is the token embedding,
and its files hold no `lm_head`. Some classes make an output matrix all the same, which then lacks its
weights. Two others (`SCALED`) leave out a factor of the logits when they are tied. Both kinds get the
embedding as their output matrix, which gives the logits of the tied model. From then on the two matrices
are separate: full training updates each by itself, and what is saved says so.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli.models.tree import flat

KEY = "tie_word_embeddings"
# Untied they divide the last hidden states by hidden_size / dim_model_base, as the original does either way.
SCALED = ("minicpm", "minicpm3")
TABLES = ("embed_tokens", "wte", "word_embeddings")  # names of token embeddings
HEAD = "lm_head"


def is_tied(config: Mapping[str, Any]) -> bool:
    """True if config.json says that the output matrix is the token embedding."""
    return config.get(KEY) is True


def keys_to_build_with(config: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of config.json for building the model: `SCALED` kinds are built untied."""
    return {KEY: False} if is_tied(config) and config.get("model_type") in SCALED else {}


def with_tied_head(model_class: Any) -> Callable[[Any], nn.Module]:
    """The class, whose models take their output matrix from the embedding where the weights lack it."""

    def make(arguments: Any) -> nn.Module:
        model: nn.Module = model_class(arguments)
        given = getattr(model, "sanitize", dict)
        model.sanitize = lambda weights: with_head(model, given(weights))
        return model

    return make


def with_head(model: nn.Module, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights, with the embedding as the output matrix if the model needs one that they lack.

    All of the embedding's arrays are taken: scales and biases too, if it is quantized.
    """
    wanted = [name.removesuffix(".weight") for name in flat(model.parameters()) if name.endswith(".weight")]
    heads = [name for name in wanted if name.rpartition(".")[2] == HEAD and f"{name}.weight" not in weights]
    tables = [name for name in wanted if name.rpartition(".")[2] in TABLES]
    if len(heads) != 1 or len(tables) != 1:
        return weights
    start = f"{tables[0]}."
    copied = {
        f"{heads[0]}.{name.removeprefix(start)}": array
        for name, array in weights.items()
        if name.startswith(start)
    }
    return {**copied, **weights}


def has_own_head(model: nn.Module) -> bool:
    """True if the model has an output matrix beside its embedding."""
    return any(name.rpartition(".")[2] == HEAD for name, _ in model.named_modules())
