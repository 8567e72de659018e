"""Convert adapters to PEFT's format: adapter_model.safetensors and its adapter_config.json.

    convert_to_peft("outputs/prod/final", Options(), …)      # models/prod-final-peft

PEFT loads them onto the base in transformers' format. lora_alpha = scale · rank, so that alpha / r is the
same scale; A and B are transposed, which rounds nothing.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from grpo_cli import device
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, Conversion, OnCheck, Options, Progress
from grpo_cli.convert.source import short_name
from grpo_cli.convert.staging import check_output, staged
from grpo_cli.convert.to_hf import refuse_family
from grpo_cli.convert.verify import approve
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapter_config import ADAPTER_CONFIG, LoRA, adapters_file, read_adapter_config
from grpo_cli.models.adapters import load_adapters
from grpo_cli.models.find import adapters_base, find_model
from grpo_cli.models.load import load_model_folder
from grpo_cli.models.peft import Arrays, is_tied, read_peft, to_peft
from grpo_cli.models.peft_config import PEFT_WEIGHTS, parse_peft_config
from grpo_cli.models.tree import flat, read_json
from grpo_cli.words import plural


def convert_to_peft(name: str, options: Options, on_progress: Progress, on_check: OnCheck) -> Conversion:
    """Write the adapters of a checkpoint or of `mlx_lm.lora` as PEFT's.

    Raises ConversionError for a folder without adapters, adapters or a base that PEFT has no counterpart
    for, an unwritable output or a wrong result, which is deleted.
    """
    device.prepare()
    folder = find_model(name)
    if not (folder / ADAPTER_CONFIG).exists():
        raise ConversionError(
            f"{name} holds no adapters: {ADAPTER_CONFIG} is missing",
            f"a full model goes to transformers by `grpo convert --to hf {quoted(name)}`",
        )
    base = adapters_base(folder)
    config = read_json(base / "config.json")
    refuse_family(name, config)
    refuse_quantized(name, base, config)
    output = check_output(
        options.output or Path("models") / f"{short_name(str(folder))}-peft", options.force, [folder, base]
    )
    model, _ = load_model_folder(base)
    bases = dict(model.named_modules())
    lora = load_adapters(model, folder)
    weights = {name: array.astype(mx.float32) for name, array in flat(model.trainable_parameters()).items()}
    paths = sorted({one.rpartition(".")[0] for one in weights})
    embeddings = embeddings_of(name, model, bases, paths, lora)
    tensors = to_peft(weights, embeddings)
    written = peft_config(lora, paths, read_adapter_config(folder).model)
    on_progress("writing", 0, 0)
    with staged(output, options.force) as temporary:
        mx.save_safetensors(str(temporary / PEFT_WEIGHTS), tensors, metadata={"format": "pt"})
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        if options.verify:
            approve(iter([verify_adapters(temporary, base, written, weights)]), on_check)
    return Conversion(
        output=output,
        source_bytes=adapters_file(folder).stat().st_size,
        output_bytes=sum(array.nbytes for array in tensors.values()),
        parameters=sum(array.size for array in tensors.values()),
        layers=len(model.layers),
        is_nanochat=False,
    )


def refuse_quantized(name: str, base: Path, config: dict[str, Any]) -> None:
    """Raise ConversionError for adapters on a base that MLX quantized: transformers cannot read it."""
    if "quantization" in config:
        raise ConversionError(
            f"the adapters in {name} belong to {base}, which MLX quantized and transformers cannot read",
            f"write both as one model: `grpo convert --to hf {quoted(name)}`",
        )


def embeddings_of(
    name: str, model: nn.Module, bases: dict[str, nn.Module], paths: list[str], lora: LoRA
) -> list[str]:
    """The adapted embeddings. Raises ConversionError for modules that PEFT adapts in another way."""
    embeddings = [path for path in paths if isinstance(bases[path], nn.Embedding)]
    others = [path for path in paths if isinstance(bases[path], SwitchLinear | QuantizedSwitchLinear)]
    if embeddings and (is_tied(model) or lora.kind == "dora"):
        others = embeddings
    if others:
        raise ConversionError(
            f"PEFT has no counterpart for the adapters on {others[0]} ({type(bases[others[0]]).__name__})",
            f"write them and their base as one model: `grpo convert --to hf {quoted(name)}`",
        )
    return embeddings


def peft_config(lora: LoRA, paths: list[str], base: str) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it, with each adapted module by its whole path."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.scale * lora.rank,
        "lora_dropout": 0.0,
        "use_dora": lora.kind == "dora",
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": paths,
    }


def verify_adapters(folder: Path, base: Path, config: dict[str, Any], weights: Arrays) -> CheckResult:
    """Check that the written adapters, read again, are the source's: the same arrays on the same modules."""
    model, _ = load_model_folder(base)
    read = read_peft(model, folder, parse_peft_config(config, folder)).weights
    names = read.keys() ^ weights.keys()
    wrong = sorted(names or {one for one in weights if not mx.allclose(read[one], weights[one], rtol=1e-6)})
    if wrong:
        return CheckResult("adapters", False, f"{', '.join(wrong[:3])} do not read back as they were")
    return CheckResult("adapters", True, f"{plural(len(weights), 'array')} read back as they were")
