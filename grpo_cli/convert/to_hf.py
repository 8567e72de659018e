"""Convert a model or adapters to a plain transformers folder, which torch programs and llama.cpp read.

    convert_to_hf("outputs/prod/final", Options(), …)        # models/prod-final-hf

Adapters are fused and a quantized base is dequantized, in float32; other weights keep their numbers. The
written folder is read again and its logits are compared with the source's.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_cli import device
from grpo_cli.convert import verify
from grpo_cli.convert.architecture import NANOCHAT_TYPES
from grpo_cli.convert.dtypes import DTYPES, Array
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, Conversion, OnCheck, Options, Progress
from grpo_cli.convert.outgoing import OutgoingTensor, counted
from grpo_cli.convert.run import copy_generation_config, weights_size
from grpo_cli.convert.safetensors_writer import write_shards
from grpo_cli.convert.source import short_name
from grpo_cli.convert.staging import check_output, check_space, staged
from grpo_cli.convert.to_nanochat import base_of, numbers
from grpo_cli.convert.transformers_names import FAMILIES, as_transformers
from grpo_cli.foreign_text import one_line, quoted
from grpo_cli.models.adapters import fuse_adapters, load_adapters
from grpo_cli.models.find import find_model
from grpo_cli.models.load import check_vocabulary, dequantized, load_model_folder, load_tokenizer
from grpo_cli.models.tree import flat, read_json
from grpo_cli.words import plural

TOLERANCE = 1e-4  # relative to the largest logit: float32 sums in another order
OF_MLX = ("quantization", "quantization_config", "model_file")  # entries of config.json


def convert_to_hf(name: str, options: Options, on_progress: Progress, on_check: OnCheck) -> Conversion:
    """Write a model folder, a checkpoint or adapters with their base as a transformers folder.

    Raises ConversionError for a family whose names in transformers are not known, an unwritable output or a
    wrong result, which is deleted; ModelError for a folder without a model.
    """
    device.prepare()
    folder = find_model(name)
    base = base_of(folder)
    refuse_family(name, read_json(base / "config.json"))
    output = check_output(
        options.output or Path("models") / f"{short_name(str(folder)).removesuffix('-mlx')}-hf",
        options.force,
        [folder, base],
    )
    model, config = whole_model(folder, base)
    tokenizer = load_tokenizer(base, config, options.trust_remote_code)
    check_vocabulary(tokenizer, model, config, base)
    kept = dtype_of(folder, base, options)
    tensors = outgoing(model, config["model_type"], kept)
    size = sum(tensor.size for tensor in tensors)
    check_space(output, size, "free some space, or choose another disk with `--output`")
    with staged(output, options.force) as temporary, verify.lean_memory():
        write_shards(temporary, counted(tensors, "writing", on_progress), made_for="pt")
        written = {key: value for key, value in config.items() if key not in OF_MLX}
        written |= {"dtype": kept, "torch_dtype": kept}  # transformers 5 reads the first, others the second
        (temporary / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        copy_generation_config(base, temporary)
        tokenizer.save(temporary)
        if options.verify:
            ids = tokenizer.encode(verify.PROMPT)
            checks = [
                lambda: verify.verify_load(temporary),
                lambda: same_logits(temporary, lambda: whole_model(folder, base)[0], ids, kept),
            ]
            on_progress("comparing", 0, 0)
            verify.approve((check() for check in checks), on_check)
    return Conversion(
        output=output,
        source_bytes=weights_size(base),
        output_bytes=size,
        parameters=sum(tensor.count for tensor in tensors),
        layers=len(model.layers),
        is_nanochat=False,
    )


def refuse_family(name: str, config: dict[str, Any]) -> None:
    """Raise ConversionError for a model whose names in transformers are not known."""
    kind = config.get("model_type")
    if kind in FAMILIES:
        return
    if kind in NANOCHAT_TYPES:
        hint = f"nanochat's own files: `grpo convert --to nanochat {quoted(name)}`"
    else:
        hint = f"known are {', '.join(FAMILIES)}; mlx-lm reads the model as it is"
    raise ConversionError(
        f"{name} is a {one_line(str(kind))[:60]} model, which cannot be written for transformers", hint
    )


def whole_model(folder: Path, base: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in float32, lazily, with its adapters fused; and config.json."""
    model, config = dequantized(*load_model_folder(base))
    model.set_dtype(mx.float32)
    if folder != base:
        load_adapters(model, folder, fusing=True)
        fuse_adapters(model)
    return model, config


def dtype_of(folder: Path, base: Path, options: Options) -> str:
    """The number format to write: as requested, else float32 for fused adapters, else the source's own."""
    if options.dtype:
        return options.dtype
    if folder != base:
        return "float32"
    found = {
        str(array.dtype).rpartition(".")[2]
        for array in flat(load_model_folder(base)[0].parameters()).values()
    }
    return next(iter(found)) if len(found) == 1 and found <= DTYPES.keys() else "float32"


def outgoing(model: nn.Module, model_type: str, dtype: str) -> list[OutgoingTensor]:
    """The model's float32 tensors under transformers' names, each read once and then released."""
    arrays = flat(model.parameters())
    found = []
    for name, array in list(arrays.items()):
        parts = list(as_transformers(model_type, name, array.shape))
        for new, index in parts:
            found.append(
                OutgoingTensor(
                    name=new,
                    dtype=DTYPES["float32"],
                    shape=array.shape if index is None else array.shape[1:],
                    read=reader(arrays, name, index, is_last=new == parts[-1][0]),
                    save_as=DTYPES[dtype],
                )
            )
    return found


def reader(arrays: dict[str, mx.array], name: str, index: int | None, is_last: bool) -> Callable[[], Array]:
    """A function that reads a parameter or one part of it; the last part releases it."""

    def read() -> Array:
        array = arrays.pop(name) if is_last else arrays[name]
        return numbers(array if index is None else array[index])

    return read


def same_logits(folder: Path, source: Callable[[], nn.Module], ids: list[int], dtype: str) -> CheckResult:
    """Check that the written model's logits (T, V) for a few words are the source's.

    A format below float32 rounds, which the difference shows; it must stay below a tenth of the largest.
    """
    written, _ = load_model_folder(folder)
    written.set_dtype(mx.float32)
    logits = [model(mx.array([ids]))[0].astype(mx.float32) for model in (written, source())]
    largest: float = mx.abs(logits[1]).max().item()  # type: ignore[assignment]
    difference: float = mx.abs(logits[0] - logits[1]).max().item()  # type: ignore[assignment]
    tolerance = TOLERANCE if dtype == "float32" else 0.1
    passed = difference <= tolerance * max(1.0, largest)  # also fails for NaN
    seen = f"after {plural(len(ids), 'token')} they differ from the source's by at most {difference:.1e}"
    return CheckResult("logits", passed, seen)
