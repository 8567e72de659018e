"""Read adapter_config.json, the adapters' shape and base model, without MLX."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import one_line
from grpo_cli.untrusted_json import DamagedFile, Schema, checked, read_object, shown

ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", "adapters.safetensors"
KINDS = ("lora", "dora")  # mlx-lm's `fine_tune_type`
MOST_LAYERS, HIGHEST_RANK = 10_000, 1 << 16
LARGEST = 4_000_000  # bytes
OF_PEFT = ("peft_type", "base_model_name_or_path")  # keys that only PEFT writes
MERGE = (
    'python -c "from peft import AutoPeftModelForCausalLM as M; '
    "M.from_pretrained('{folder}').merge_and_unload().save_pretrained('merged')\""
)


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
    fine_tune_type: Literal["lora", "dora"] = "lora"


def read_adapter_config(folder: Path) -> AdapterConfig:
    """A folder's adapter_config.json. Raises ModelError if it is invalid or another program's."""
    path = folder / ADAPTER_CONFIG
    try:
        content = read_object(path, LARGEST)
        refuse_others(content, folder)
        return checked(AdapterConfig, content)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except DamagedFile as error:
        raise _unreadable(path, str(error)) from error


def refuse_others(content: dict[str, Any], folder: Path) -> None:
    """Raise ModelError for PEFT adapters, and for a kind that mlx-lm cannot apply."""
    if any(key in content for key in OF_PEFT):
        kind, base = (one_line(str(content.get(key)))[:100] for key in OF_PEFT)
        raise ModelError(
            f"{folder} holds PEFT adapters ({kind}) trained on {base}: they cannot be loaded directly",
            "merge them into their base and use the result: `pip install peft`, "
            f"`{MERGE.format(folder=folder)}`, "
            "copy the tokenizer's files of the base into `merged`; or train adapters here (`lora_rank = 8`)",
            trouble="model-weights",
        )
    kind = content.get("fine_tune_type", "lora")
    if isinstance(kind, str) and kind not in KINDS:
        raise ModelError(
            f"{folder / ADAPTER_CONFIG} describes adapters of the kind {shown(kind)}",
            f"only {' and '.join(f'`{known}`' for known in KINDS)} are supported; fuse them: `mlx_lm.fuse`",
            trouble="model-weights",
        )


def _unreadable(path: Path, problem: str) -> ModelError:
    return ModelError(
        f"{path} {problem}",
        "copy the folder again; adapters are trained here or with `mlx_lm.lora`",
        trouble="model-weights",
    )
