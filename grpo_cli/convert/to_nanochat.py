"""The way back: a nanochat model that was trained here as nanochat's own files.

    convert_back("outputs/nanochat_grpo/final", Options(), …)
    # models/nanochat_grpo-final-nanochat/  model_000120.pt  meta_000120.json  tokenizer.pkl

Names, number formats and padded rows are those of the original, from what config.json keeps of it;
adapters are fused into their base in float32. nanochat's loader reads the files as its own.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import dequantize_model

from grpo_cli.convert.architecture import EMBEDDINGS
from grpo_cli.convert.dtypes import DTYPES, Array
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import CropRows, backward
from grpo_cli.convert.nanochat import counted
from grpo_cli.convert.options import Check, Conversion, OnCheck, Options, Progress
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.run import approve
from grpo_cli.convert.staging import check_output, staged
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.convert.torch_writer import write_torch_file
from grpo_cli.models.classes import load_weights
from grpo_cli.models.load import find_model
from grpo_cli.models.lora import fuse_adapters, load_adapters, read_adapter_config
from grpo_cli.models.tree import flat

MODEL_TYPES = ("nanochat", "nanochat_v2")
TRAINING_STATE = "trainer_state.json"
META_FIELDS = {  # nanochat's name → config.json's
    "sequence_len": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
}


def convert_back(name: str, options: Options, on_progress: Progress, on_check: OnCheck) -> Conversion:
    """Write a model's folder, a checkpoint or one with adapters, as nanochat's files.

    Raises ConversionError for a model that is no nanochat and where the result cannot be written or is
    not what was meant; ModelError for a folder that is no model.
    """
    folder = find_model(name)
    base = base_of(folder)
    config = read_json(base / "config.json")
    if config.get("model_type") not in MODEL_TYPES:
        raise ConversionError(
            f"{name} is a {config.get('model_type')} model, which nanochat cannot run",
            "only nanochat's own models go back to its format",
        )
    output = options.output or Path("models") / f"{back_name(folder)}-nanochat"
    check_output(output, options.force)
    step, meta = meta_of(folder, config)
    with staged(output, options.force) as temporary:
        file = temporary / f"model_{step:06d}.pt"
        write_torch_file(file, counted(outgoing(folder, config), "writing", on_progress))
        (temporary / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(base / "tokenizer.pkl", temporary / "tokenizer.pkl")
        if options.verify:
            approve(iter([verify_file(file, outgoing(folder, config), on_progress)]), on_check)
        size, parameters = file.stat().st_size, count_parameters(file)
    original = sum(path.stat().st_size for path in base.glob("model*.safetensors"))
    return Conversion(output, original, size, parameters, meta["model_config"]["n_layer"])


def outgoing(folder: Path, config: Mapping[str, Any]) -> list[OutgoingTensor]:
    """The model's tensors under nanochat's names, to be written in nanochat's formats.

    Nothing is read yet, and each tensor can be read once: what was read is let go.
    """
    model, _ = load_weights(base_of(folder))
    if "quantization" in config:
        model = dequantize_model(model)
    model.set_dtype(mx.float32)
    if (folder / "adapter_config.json").exists():
        load_adapters(model, folder)
        fuse_adapters(model)
    arrays = flat(model.parameters())
    stored = stored_formats(config, list(arrays))

    def tensor(name: str) -> OutgoingTensor:
        shape = arrays[name].shape
        return OutgoingTensor(
            name, DTYPES["float32"], shape, lambda: numbers(arrays.pop(name)), DTYPES[stored[name]]
        )

    rows = provenance(config).get("rows", config["vocab_size"])
    operations = (
        [CropRows(EMBEDDINGS, rows, config["vocab_size"])] if config["model_type"] == "nanochat" else []
    )
    return backward(operations, [tensor(name) for name in arrays])


def numbers(array: mx.array) -> Array:
    """A float32 array's numbers, in memory of their own; what MLX kept for them is let go."""
    values = np.array(array)
    del array
    mx.clear_cache()
    return values


def stored_formats(config: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    """The number format of each tensor in nanochat's file: the original's, else what a CUDA run writes.

    There the embeddings are bfloat16 and the rest is float32.
    """
    if "nanochat" in config:
        known = provenance(config).get("stored_as", {})
    else:
        known = {name: "bfloat16" for name in names if name.endswith("wte.weight") or "value_embeds" in name}
    return {name: known.get(name, "float32") for name in names}


def meta_of(folder: Path, config: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The step and the content of the meta file; a trained model has no scores of the original's."""
    original = provenance(config)
    model_config = original.get("meta", {}).get("model_config") or {
        field: config[key] for field, key in META_FIELDS.items()
    }
    if (folder / TRAINING_STATE).exists():
        step = int(read_json(folder / TRAINING_STATE)["step"])
        return step, {"step": step, "model_config": model_config}
    step = int(original.get("step", 0))
    return step, original.get("meta") or {"step": step, "model_config": model_config}


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json keeps of the original checkpoint."""
    kept = config.get("nanochat", {})
    return kept if isinstance(kept, dict) else {}


def verify_file(path: Path, tensors: list[OutgoingTensor], on_progress: Progress) -> Check:
    """Whether the file that was written reads back to exactly the numbers that were meant."""
    with TorchFile(path) as file:
        for tensor in counted(tensors, "comparing", on_progress):
            found = file.read(tensor.name).reshape(-1)
            wanted = np.concatenate(list(tensor.pieces()) or [found[:0]])
            if found.tobytes() != wanted.tobytes():
                return Check("weights", False, f"{tensor.name} does not read back as it was written")
    return Check("weights", True, f"{len(tensors)} of {len(tensors)} tensors read back bit for bit")


def base_of(folder: Path) -> Path:
    """The folder of the weights: the base's where the folder holds adapters."""
    if not (folder / "adapter_config.json").exists():
        return folder
    return find_model(read_adapter_config(folder)["model"])


def back_name(folder: Path) -> str:
    """The output's name: that of the run and its checkpoint, or of the model's folder."""
    path = folder.resolve()
    is_of_run = path.name == "final" or path.name.startswith("checkpoint-")
    return f"{path.parent.name}-{path.name}" if is_of_run else path.name.removesuffix("-mlx")


def count_parameters(path: Path) -> int:
    """Numbers in a .pt file."""
    with TorchFile(path) as file:
        return sum(info.count for info in file.tensors.values())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the model's folder. Raises ConversionError where it is missing or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"cannot read {path}: {error}", "name the folder of a model") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} is not a JSON object", "name the folder of a model")
    return content
