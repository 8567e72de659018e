"""`grpo convert --fuse`: merge adapters into their base and write a plain model folder.

    done = fuse("outputs/prod/final", Options())      # models/prod-final-mlx

The base is dequantized and the sum is computed in float32, so that nothing is rounded. Its logits are
compared with those of the base with adapters. Casting or quantizing comes after that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import save_config, save_model

from grpo_cli import device
from grpo_cli.convert import verify
from grpo_cli.convert.compare import verify_like
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import (
    CheckResult,
    Conversion,
    OnCheck,
    Options,
    Progress,
    no_check,
    no_progress,
)
from grpo_cli.convert.run import (
    MODEL_FILES,
    checks_against,
    copy_generation_config,
    lift,
    measure,
    nanochat_checks,
    weights_size,
)
from grpo_cli.convert.source import short_name
from grpo_cli.convert.staging import check_output, check_space, staged
from grpo_cli.convert.through_mlx_lm import convert_folder
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapters import fuse_adapters, load_adapters
from grpo_cli.models.classes import save_code
from grpo_cli.models.find import adapters_base, find_model
from grpo_cli.models.load import check_vocabulary, dequantized, load_model_folder, load_tokenizer
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.models.tree import count_parameters

TOLERANCE = 1e-4  # relative to the largest logit: float32 sums in another order
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "config.json")


@dataclass(frozen=True)
class Adapted:
    """A folder of adapters, its base's folder, and the base's tokenizer."""

    name: str
    folder: Path
    base: Path
    tokenizer: Tokenizer

    @property
    def is_nanochat(self) -> bool:
        return isinstance(self.tokenizer, NanochatTokenizer)

    def load(self) -> tuple[nn.Module, dict[str, Any]]:
        """The base in float32 with its adapters, lazily, and the config.json of the fused model."""
        model, config = load_model_folder(self.base)
        model, config = dequantized(model, config)
        model.set_dtype(mx.float32)
        load_adapters(model, self.folder, fusing=True)
        return model, {**config, "torch_dtype": "float32"}


def fuse(
    name: str, options: Options, on_progress: Progress = no_progress, on_check: OnCheck = no_check
) -> Conversion:
    """Write the model that a folder's adapters and their base form together.

    Raises ConversionError for a folder without adapters, an unwritable output, or a wrong result, which is
    deleted; ModelError if base or adapters are damaged.
    """
    device.prepare()
    output = check_output(options.output or Path("models") / f"{short_name(name)}-mlx", options.force)
    adapted = find_adapters(name, options.trust_remote_code)
    check_output(output, options.force, [adapted.folder, adapted.base])
    _check_space_for(output, adapted, options)
    with staged(output, options.force) as folder, verify.lean_memory():
        is_last = not options.quantize and options.dtype is None
        plain = folder if is_last else folder / "plain"
        _write(adapted, plain, on_progress)
        if options.verify:
            verify.approve(iter([verify_fused(plain, adapted, on_progress)]), on_check)
        if not is_last:
            _shrink(plain, folder, options, on_progress, on_check)
        if options.verify:
            trusted = options.trust_remote_code
            checks = nanochat_checks if adapted.is_nanochat else checks_against(adapted.base, trusted)
            verify.approve(checks(folder, on_progress), on_check)
        parameters, layers, size = measure(folder)
    return Conversion(
        output=output,
        source_bytes=weights_size(adapted.base),
        output_bytes=size,
        parameters=parameters,
        layers=layers,
        is_nanochat=adapted.is_nanochat,
    )


def find_adapters(name: str, trust_remote_code: bool = False) -> Adapted:
    """The adapters for a name, and their base, fetched if they are on the hub."""
    folder = find_model(name)
    if not (folder / "adapter_config.json").exists():
        is_model = (folder / "config.json").exists()
        raise ConversionError(
            f"{name} holds no adapters to fuse: adapter_config.json is missing",
            f"it is already a full model: `grpo convert {quoted(name)}`"
            if is_model
            else "give a checkpoint of a run with `lora_rank`, or a folder that `mlx_lm.lora` or peft wrote",
        )
    base = adapters_base(folder)
    model, config = load_model_folder(base)
    tokenizer = load_tokenizer(base, config, trust_remote_code)
    check_vocabulary(tokenizer, model, config, base)
    return Adapted(name, folder, base, tokenizer)


def _write(adapted: Adapted, folder: Path, on_progress: Progress) -> None:
    """Write weights, config.json and tokenizer of the fused model."""
    on_progress("fusing", 0, 0)
    folder.mkdir(exist_ok=True)
    model, config = adapted.load()
    fuse_adapters(model)
    try:
        save_model(folder, model, donate_model=True)
    except RuntimeError as error:  # mlx's error for a failed write
        raise ConversionError(
            f"cannot write the result: {error}",
            "free some space, or choose another disk with `--output`",
            trouble="disk-space",
        ) from error
    save_code(config, folder)
    save_config(config, folder / "config.json")
    copy_generation_config(adapted.base, folder)
    adapted.tokenizer.save(folder)


def verify_fused(folder: Path, adapted: Adapted, on_progress: Progress) -> CheckResult:
    """Check that the written model's logits (T, V) for a few words equal those of the base with adapters."""
    on_progress("comparing", 0, 0)
    bos = [adapted.tokenizer.bos_id] if isinstance(adapted.tokenizer, NanochatTokenizer) else []
    ids = mx.array([[*bos, *adapted.tokenizer.encode(verify.PROMPT)]])
    written, expected = _logits(load_model_folder(folder)[0], ids), _logits(adapted.load()[0], ids)
    largest: float = mx.abs(expected).max().item()  # type: ignore[assignment]
    difference: float = mx.abs(written - expected).max().item()  # type: ignore[assignment]
    passed = difference <= TOLERANCE * max(1.0, largest)  # also fails for NaN
    return CheckResult("fused", passed, f"logits differ from the adapted model's by at most {difference:.1e}")


def _logits(model: nn.Module, ids: mx.array) -> mx.array:
    logits: mx.array = model(ids)[0].astype(mx.float32)
    mx.eval(logits)
    return logits


def _shrink(
    plain: Path,
    folder: Path,
    options: Options,
    on_progress: Progress,
    on_check: OnCheck,
) -> None:
    """Cast or quantize the fused model in `plain` into `folder`."""
    on_progress("quantizing" if options.quantize else "converting", 0, 0)
    small = folder / "small"
    convert_folder(plain, small, options)
    if options.verify:
        verify.approve(iter([verify_like(small, plain, on_progress)]), on_check)
    lift(small, MODEL_FILES)
    for path in _weights_of(plain):
        path.unlink()
    lift(plain, ("*",))  # the base's tokenizer


def _weights_of(folder: Path) -> Iterator[Path]:
    for pattern in WEIGHTS:
        yield from sorted(folder.glob(pattern))


def _check_space_for(output: Path, adapted: Adapted, options: Options) -> None:
    """Raise ConversionError if the disk cannot hold the sum in float32 and the final result."""
    numbers = count_parameters(load_model_folder(adapted.base)[0])
    small = numbers * (options.bits + 1) // 8 if options.quantize else numbers * 2 if options.dtype else 0
    check_space(output, numbers * 4 + small, "free some space, or choose another disk with `--output`")
