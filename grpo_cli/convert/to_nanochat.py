"""Convert a nanochat model that was trained here back to nanochat's own files.

    convert_back("outputs/nanochat_grpo/final", Options(), …)
    # models/nanochat_grpo-final-nanochat/  model_000120.pt  meta_000120.json  tokenizer.pkl

Names, number formats and padded rows are those of the original, as recorded in config.json;
adapters are fused into their base in float32. nanochat's loader reads the files as its own.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from pydantic import ValidationError

from grpo_cli.convert.architecture import EMBEDDINGS, NANOCHAT_TYPES, ModelConfig, recognize
from grpo_cli.convert.dtypes import DTYPES, Array, cast
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import CropRows, Operation, backward
from grpo_cli.convert.nanochat import Provenance
from grpo_cli.convert.options import CheckResult, Conversion, OnCheck, Options, Progress
from grpo_cli.convert.outgoing import OutgoingTensor, counted
from grpo_cli.convert.source import short_name
from grpo_cli.convert.staging import check_output, check_space, staged
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.convert.torch_writer import write_torch_file
from grpo_cli.convert.verify import approve
from grpo_cli.models.adapters import fuse_adapters, load_adapters
from grpo_cli.models.find import adapters_base, find_model
from grpo_cli.models.load import dequantized, load_model_folder
from grpo_cli.models.tree import flat, read_json

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
    """Write a model folder, a checkpoint or one with adapters, as nanochat's files.

    Raises ConversionError for a model that is not a nanochat, an unwritable output or a wrong result;
    ModelError for a folder without a model.
    """
    folder = find_model(name)
    if (folder / "final").is_dir() and not (folder / "config.json").exists():
        raise ConversionError(f"{name} is a run's folder", f"name one of its models: {name}/final")
    base = base_of(folder)
    config = read_json(base / "config.json")
    _refuse_foreign(name, base, config)
    default = Path("models") / f"{short_name(str(folder)).removesuffix('-mlx')}-nanochat"
    output = check_output(options.output or default, options.force, [folder, base])
    kept = provenance(config, base)
    step, meta = meta_of(folder, config, kept)
    tensors = outgoing(folder, config, kept)
    size = sum(tensor.size for tensor in tensors)
    check_space(output, size, "free some space, or choose another disk with `--output`")
    with staged(output, options.force) as temporary:
        file = temporary / f"model_{step:06d}.pt"
        write_torch_file(file, counted(tensors, "writing", on_progress))
        (temporary / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        (temporary / "tokenizer.pkl").write_bytes((base / "tokenizer.pkl").read_bytes())
        if options.verify:
            again = outgoing(folder, config, kept)
            approve(iter([verify_file(file, meta, again, on_progress)]), on_check)
    original = sum(path.stat().st_size for path in base.glob("model*.safetensors"))
    numbers = sum(tensor.count for tensor in tensors)
    return Conversion(
        output=output,
        source_bytes=original,
        output_bytes=size,
        parameters=numbers,
        layers=meta["model_config"]["n_layer"],
    )


def _refuse_foreign(name: str, base: Path, config: dict[str, Any]) -> None:
    """Raise ConversionError for a model that nanochat cannot run, or without a file that it needs."""
    if config.get("model_type") not in NANOCHAT_TYPES:
        raise ConversionError(
            f"{name} is a {config.get('model_type')} model, which nanochat cannot run",
            "only nanochat models can be converted back to its format",
        )
    if not (base / "tokenizer.pkl").is_file():
        raise ConversionError(
            f"{base} has no tokenizer.pkl", "copy it there from the nanochat run that the model comes from"
        )


def outgoing(folder: Path, config: dict[str, Any], kept: Provenance) -> list[OutgoingTensor]:
    """The model's tensors under nanochat's names, to be written in nanochat's formats.

    Nothing is read yet, and each tensor can be read only once: it is released after that.
    """
    model, _ = dequantized(*load_model_folder(base_of(folder)))  # the adapters' base may be quantized
    model.set_dtype(mx.float32)
    if (folder / "adapter_config.json").exists():
        load_adapters(model, folder, fusing=True)
        fuse_adapters(model)
    arrays = flat(model.parameters())

    def tensor(name: str) -> OutgoingTensor:
        shape, stored = arrays[name].shape, DTYPES[stored_format(name, kept)]
        return OutgoingTensor(
            name=name,
            dtype=DTYPES["float32"],
            shape=shape,
            read=lambda: numbers(arrays.pop(name)),
            save_as=stored,
        )

    operations: list[Operation] = []
    if config["model_type"] == "nanochat" and kept.rows is not None and kept.rows > config["vocab_size"]:
        operations = [CropRows(EMBEDDINGS, kept.rows, config["vocab_size"])]
    return backward(operations, [tensor(name) for name in arrays])


def numbers(array: mx.array) -> Array:
    """A float32 array's numbers in separate memory; MLX's own is released."""
    values = np.array(array)
    del array
    mx.clear_cache()
    return values


def stored_format(name: str, kept: Provenance) -> str:
    """A tensor's number format in nanochat's file: the original's, else that of a CUDA run.

    A CUDA run writes bfloat16 embeddings and float32 for the rest.
    """
    if kept.stored_as is not None:
        return kept.stored_as.get(name, "float32")
    return "bfloat16" if name.endswith("wte.weight") or name.startswith("value_embeds.") else "float32"


def meta_of(folder: Path, config: dict[str, Any], kept: Provenance) -> tuple[int, dict[str, Any]]:
    """The step and the content of the meta file; the original's scores do not apply to a trained model.

    Raises ConversionError if config.json lacks a size.
    """
    fields = kept.meta.get("model_config") or {field: config.get(key) for field, key in META_FIELDS.items()}
    if "window_pattern" in config:
        fields = {**fields, "window_pattern": config["window_pattern"]}
    try:
        ModelConfig.model_validate(fields)
    except ValidationError as error:
        raise ConversionError(
            f"the sizes in {folder}/config.json are not those of a nanochat model: "
            f"{error.errors()[0]['msg']}",
            "take a model that `grpo convert` made, or that was trained from one",
        ) from error
    if (folder / TRAINING_STATE).exists():
        step = int(read_json(folder / TRAINING_STATE)["step"])
        return step, {"step": step, "model_config": fields}
    return kept.step, kept.meta or {"step": kept.step, "model_config": fields}


def provenance(config: dict[str, Any], base: Path) -> Provenance:
    """The original checkpoint's data in config.json. Raises ConversionError if it is not ours."""
    try:
        kept = Provenance.model_validate(config.get("nanochat", {}))
    except ValidationError as error:
        raise ConversionError(
            f"the entry about the original in {base}/config.json is damaged: {error.errors()[0]['msg']}",
            "convert the original again, or delete its entry `nanochat`: then the usual formats are written",
        ) from error
    if kept.rows is not None and not 0 <= kept.rows - int(config.get("vocab_size", 0)) < 64:
        raise ConversionError(
            f"{base}/config.json says that there were {kept.rows} rows for {config.get('vocab_size')} tokens",
            "convert the original again",
        )
    return kept


def verify_file(
    path: Path, meta: dict[str, Any], tensors: list[OutgoingTensor], on_progress: Progress
) -> CheckResult:
    """Check that the written file reads back as intended, and that nanochat's loader would accept it."""
    with TorchFile(path) as file:
        found = {name: (info.shape, info.dtype) for name, info in file.tensors.items()}
        meant = {tensor.name: (tensor.shape, tensor.written) for tensor in tensors}
        if found != meant:
            other = sorted(name for name in found.keys() | meant.keys() if found.get(name) != meant.get(name))
            return CheckResult("weights", False, f"{', '.join(other[:3])} differ from the expected values")
        recognize(
            {name: shape for name, (shape, _) in found.items()},
            ModelConfig.model_validate(meta["model_config"]),
            str(path),
        )
        for tensor in counted(tensors, "comparing", on_progress):
            values = file.read(tensor.name).reshape(-1)
            if not reads_back(values, tensor):
                return CheckResult("weights", False, f"{tensor.name} does not read back as it was written")
            if not np.isfinite(cast(values, tensor.written, DTYPES["float32"])).all():
                return CheckResult("weights", False, f"{tensor.name} holds NaN or infinite numbers")
    return CheckResult("weights", True, f"{len(tensors)} of {len(tensors)} tensors read back bit for bit")


def reads_back(found: Array, tensor: OutgoingTensor) -> bool:
    """True if an array holds exactly the numbers of an outgoing tensor."""
    at = 0
    for piece in tensor.pieces():
        if found[at : at + piece.size].tobytes() != piece.tobytes():
            return False
        at += piece.size
    return at == found.size


def base_of(folder: Path) -> Path:
    """The folder of the weights: the base's if the folder holds adapters."""
    return adapters_base(folder) if (folder / "adapter_config.json").exists() else folder
