"""Identify a checkpoint's nanochat version from its tensors' names and shapes.

    recognize({"transformer.wte.weight": (65536, 2048), …}, ModelConfig(n_layer=32, …))

nanochat writes no version into its files, and its computation changed several times. A checkpoint
with a single interpretation is converted; any other is refused with the ambiguity, never guessed.
Source: karpathy/nanochat, nanochat/gpt.py and nanochat/checkpoint_manager.py through 2026-07.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import CropRows, Operation, Shapes, check_names
from grpo_cli.models.classes import model_classes
from grpo_cli.models.tree import flat

NANOCHAT_TYPES = ("nanochat", "nanochat_v2")  # model_type of converted checkpoints
EMBEDDINGS = ("transformer.wte.weight", "lm_head.weight")  # one row per token id, padded since 2025-12-09
LAMBDAS = ("resid_lambdas", "x0_lambdas")  # since 11 January 2026
SMEAR = ("smear_lambda", "smear_gate.weight", "backout_lambda")  # since 14 March 2026
VALUE_GATE = ".attn.ve_gate.weight"  # since 18 January 2026
Size = Annotated[int, Field(ge=1, le=1 << 24)]


class ModelConfig(BaseModel):
    """model_config of a meta file: nanochat's GPTConfig."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    sequence_len: Size
    vocab_size: Size
    n_layer: Annotated[int, Field(ge=1, le=1024)]
    n_head: Size
    n_kv_head: Size
    n_embd: Size
    window_pattern: Annotated[str, Field(pattern="^[SLsl]+$")] | None = None

    @model_validator(mode="after")
    def heads_divide(self) -> "ModelConfig":
        """Check that channels divide evenly among heads, and queries among keys."""
        if self.n_embd % (2 * self.n_head) or self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_embd {self.n_embd}, n_head {self.n_head} and n_kv_head {self.n_kv_head} do not divide"
            )
        return self


@dataclass(frozen=True)
class Architecture:
    """The conversion of a checkpoint into a model of ours."""

    config: dict[str, Any]  # fields of config.json for its class
    operations: list[Operation]  # the name map


def read_model_config(meta: Any, path: object) -> ModelConfig:
    """The model_config of a meta file.

    Raises ConversionError that names every missing, unknown or out-of-range field.
    """
    fields = meta.get("model_config") if isinstance(meta, dict) else None
    if not isinstance(fields, dict):
        raise ConversionError(f"{path} has no model_config", "download or copy the meta file again")
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'sizes'}: {item['msg']}" for item in error.errors()
        )
        raise ConversionError(
            f"the model_config of {path} is not one of nanochat's: {problems}",
            "weights and meta must come from the same checkpoint",
        ) from error


def recognize(shapes: Shapes, model_config: ModelConfig, source: str) -> Architecture:
    """The architecture of a checkpoint, with its names checked.

    Raises ConversionError if its computation is ambiguous, or if names or shapes do not fit.
    """
    rows = max([model_config.vocab_size, *shapes.get(EMBEDDINGS[0], ())[:1]])
    gates = {shape[-1:] for name, shape in shapes.items() if name.endswith(VALUE_GATE)}
    reason = ambiguity(shapes, gates, model_config.window_pattern)
    if reason:
        raise ConversionError(
            f"{source} is ambiguous: {reason}",
            "run it with the version of nanochat that trained it: only checkpoints whose files determine "
            "what they compute are converted, so that no result is silently wrong",
        )
    operations: list[Operation] = []
    if LAMBDAS[0] not in shapes:
        config = _october(model_config)
        if rows > model_config.vocab_size:  # mlx-lm's nanochat has exactly one row per token
            operations = [CropRows(EMBEDDINGS, rows, model_config.vocab_size)]
    elif SMEAR[0] not in shapes:
        config = _january(model_config, rows)
    else:
        config = _current(model_config, rows)
    expected = model_shapes(config)
    in_file = {name: (rows, *shape[1:]) if name in EMBEDDINGS else shape for name, shape in expected.items()}
    check_names(shapes, in_file, source)
    return Architecture(config, operations)


def ambiguity(names: Container[str], gates: set[tuple[int, ...]], window_pattern: str | None) -> str:
    """Description of an ambiguity in the files, or "". `gates`: the widths of the value embeddings' gates."""
    wide = ", ".join(str(*width) for width in sorted(gates))
    lambdas, smear = (sum(name in names for name in group) for group in (LAMBDAS, SMEAR))
    if not lambdas and not smear and not gates:
        if window_pattern is None:
            return ""
        return "its model_config has a window_pattern, but its tensors are those of models without windows"
    if lambdas < len(LAMBDAS) or 0 < smear < len(SMEAR):
        missing = [name for name in (*LAMBDAS, *SMEAR) if name not in names]
        return f"it has some tensors that later versions added but lacks {', '.join(missing)}"
    if window_pattern is None:
        return (
            "its model_config has no window_pattern, so attention may cover all tokens or windows "
            "(mid-training checkpoints of January 2026 lack it in both cases)"
        )
    if smear and gates and gates != {(12,)}:
        return f"its value embeddings' gates (ve_gate.weight) are {wide} wide, which no known version has"
    if gates and not smear:
        return (
            f"it has value embeddings (ve_gate.weight, {wide} wide) but no smear_lambda; in such models the "
            "softcap of the logits was 15 or 20 (it changed back and forth early in March 2026)"
        )
    return ""


def model_shapes(config: Mapping[str, Any]) -> Shapes:
    """Name → shape of every tensor of the model in a config.json; computes nothing."""
    model_class, args_class = model_classes(dict(config))
    model = model_class(args_class.from_dict(dict(config)))
    return {name: array.shape for name, array in flat(model.parameters()).items()}


def _common(model_config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": model_config.n_embd,
        "num_hidden_layers": model_config.n_layer,
        "num_attention_heads": model_config.n_head,
        "num_key_value_heads": model_config.n_kv_head,
        "intermediate_size": 4 * model_config.n_embd,
        "max_position_embeddings": model_config.sequence_len,
        "vocab_size": model_config.vocab_size,
        "tie_word_embeddings": False,
    }


def _october(model_config: ModelConfig) -> dict[str, Any]:
    """October 2025 to January 2026: mlx-lm's own nanochat."""
    return {"model_type": "nanochat", **_common(model_config), "rope_theta": 10000.0}


def _january(model_config: ModelConfig, rows: int) -> dict[str, Any]:
    """January 2026: the first layer's input is mixed back in, and windows have half the positions."""
    return {
        **_current(model_config, rows),
        "short_window": model_config.sequence_len // 2,
        "smear": False,
        "backout": False,
        "value_embeddings": False,
        "query_key_scale": 1.0,
        "rope_theta": 10000.0,
    }


def _current(model_config: ModelConfig, rows: int) -> dict[str, Any]:
    """Since 14 March 2026: our nanochat_v2."""
    return {
        "model_type": "nanochat_v2",
        "model_file": "nanochat_v2.py",
        **_common(model_config),
        "padded_vocab_size": rows,
        "window_pattern": model_config.window_pattern,
        "rope_theta": 100000.0,
    }
