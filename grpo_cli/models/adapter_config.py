"""Read adapter_config.json, the adapters' shape and base model, without MLX: mlx-lm's, ours and PEFT's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_cli.config.local_model import ADAPTER_CONFIG
from grpo_cli.errors import ModelError
from grpo_cli.models.peft_config import (
    HIGHEST_RANK,
    PEFT_PICKLE,
    PEFT_WEIGHTS,
    PeftConfig,
    is_peft,
    only_a_pickle,
    parse_peft_config,
)
from grpo_cli.untrusted_json import DamagedFile, Schema, checked, read_object, shown

ADAPTERS = "adapters.safetensors"
KINDS = ("lora", "dora")  # mlx-lm's `fine_tune_type`
MOST_LAYERS = 10_000
LARGEST = 4_000_000  # bytes

Kind = Literal["lora", "dora"]


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Shape of the adapters: rank, output scale s, and the number of last layers that have them."""

    rank: int
    scale: float = 20.0
    layers: int = 0  # 0: all
    kind: Kind = "lora"
    # Names within a layer, such as `self_attn.q_proj`, or whole paths; empty: every linear layer.
    keys: tuple[str, ...] = ()


class LoRAParameters(Schema):
    """mlx-lm's `lora_parameters`."""

    rank: Annotated[int, Field(ge=1, le=HIGHEST_RANK)]
    scale: Annotated[float, Field(gt=-1e6, lt=1e6)]
    keys: list[str] | None = None


class AdapterConfig(Schema):
    """adapter_config.json as mlx-lm and this project write it."""

    model: Annotated[str, Field(min_length=1)]
    num_layers: Annotated[int, Field(ge=-1, le=MOST_LAYERS)]  # −1: all
    lora_parameters: LoRAParameters
    fine_tune_type: Kind = "lora"

    @property
    def lora(self) -> LoRA:
        """The shape of the adapters."""
        return LoRA(
            rank=self.lora_parameters.rank,
            scale=self.lora_parameters.scale,
            layers=max(self.num_layers, 0),
            kind=self.fine_tune_type,
            keys=tuple(self.lora_parameters.keys or ()),
        )


def read_adapter_config(folder: Path) -> AdapterConfig | PeftConfig:
    """A folder's adapter_config.json. Raises ModelError if it is invalid, or describes other adapters."""
    path = folder / ADAPTER_CONFIG
    try:
        content = read_object(path, LARGEST)
        if is_peft(content):
            return parse_peft_config(content, folder)
        refuse_others(content, path)
        return checked(AdapterConfig, content)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except DamagedFile as error:
        raise _unreadable(path, str(error)) from error


def adapters_file(folder: Path) -> Path:
    """The file of a folder's adapters: PEFT's name or mlx-lm's.

    Raises ModelError for PEFT adapters that exist only as a pickle.
    """
    if (folder / ADAPTERS).exists() or not (folder / PEFT_WEIGHTS).exists():
        if not (folder / ADAPTERS).exists() and (folder / PEFT_PICKLE).exists():
            raise only_a_pickle(folder)
        return folder / ADAPTERS
    return folder / PEFT_WEIGHTS


def refuse_others(content: dict[str, Any], path: Path) -> None:
    """Raise ModelError for a kind of adapters that mlx-lm cannot apply."""
    kind = content.get("fine_tune_type", "lora")
    if isinstance(kind, str) and kind not in KINDS:
        raise ModelError(
            f"{path} describes adapters of the kind {shown(kind)}",
            f"only {' and '.join(f'`{known}`' for known in KINDS)} are supported; fuse them: `mlx_lm.fuse`",
            trouble="model-weights",
        )


def _unreadable(path: Path, problem: str) -> ModelError:
    return ModelError(
        f"{path} {problem}",
        "copy the folder again; adapters are trained here or with `mlx_lm.lora`",
        trouble="model-weights",
    )
