"""A whole conversion: find the source, write a temporary folder, verify it, rename it.

    done = convert("nanochat-d32", Options(), on_progress=…, on_check=…)      # models/nanochat-d32-mlx

Nothing incomplete is left behind: the output appears when everything is written and verified. What can be
refused is refused before gigabytes are fetched.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo_cli import device
from grpo_cli.convert import verify
from grpo_cli.convert.architecture import NANOCHAT_TYPES
from grpo_cli.convert.compare import verify_equal, verify_like
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import parse_renames
from grpo_cli.convert.nanochat import Checkpoint, open_checkpoint, write_model
from grpo_cli.convert.options import (
    CheckResult,
    Conversion,
    OnCheck,
    Options,
    Progress,
    no_check,
    no_progress,
)
from grpo_cli.convert.source import Source, find_source, short_name
from grpo_cli.convert.staging import check_output, check_space, staged
from grpo_cli.convert.through_mlx_lm import convert_folder
from grpo_cli.models.classes import load_weights
from grpo_cli.models.load import check_vocabulary, generation_config, load_model_folder, load_tokenizer
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tree import count_parameters, read_json

MODEL_FILES = ("model*.safetensors", "model.safetensors.index.json", "*config.json", "nanochat_v2.py")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer.pkl", "vocab.json", "vocab.txt", "*.tiktoken")


def convert(
    name: str, options: Options, on_progress: Progress = no_progress, on_check: OnCheck = no_check
) -> Conversion:
    """Convert the model of a name; `on_check` gets every check as it is made.

    Raises ConversionError or ModelError for a source that cannot be converted, and ConversionError for a
    wrong result, which is deleted.
    """
    device.prepare()
    parse_renames(options.renames)
    output = check_output(options.output or Path("models") / f"{short_name(name)}-mlx", options.force)
    source = find_source(name, options.step, lambda done, total: on_progress("fetching", done, total))
    check_output(output, options.force, [source.folder])
    if source.kind == "nanochat":
        return _convert_nanochat(source, output, options, on_progress, on_check)
    return _convert_folder(source, output, options, on_progress, on_check)


# --- nanochat's own checkpoints ----------------------------------------------------------------------


def _convert_nanochat(
    source: Source, output: Path, options: Options, on_progress: Progress, on_check: OnCheck
) -> Conversion:
    with open_checkpoint(source, options.renames) as checkpoint:
        _check_space_for(output, checkpoint, options)
        with staged(output, options.force) as folder, verify.lean_memory():
            plain = folder / "plain" if options.quantize else folder
            plain.mkdir(exist_ok=True)
            tensors = write_model(checkpoint, plain, options.dtype, on_progress)
            if options.verify:
                verify.approve(iter([verify_equal(plain, tensors, on_progress)]), _unless(options, on_check))
            if options.quantize:
                _quantize(plain, folder, options, on_progress, on_check)
            if options.verify:
                verify.approve(nanochat_checks(folder, on_progress), on_check)
            parameters, layers, size = measure(folder)
    return Conversion(
        output=output,
        source_bytes=source.model_file.stat().st_size,
        output_bytes=size,
        parameters=parameters,
        layers=layers,
    )


def _unless(options: Options, on_check: OnCheck) -> OnCheck:
    """A comparison before quantizing is not reported: the one after it is."""
    return no_check if options.quantize else on_check


def _quantize(plain: Path, folder: Path, options: Options, on_progress: Progress, on_check: OnCheck) -> None:
    """Quantize the model in `plain` into `folder` and copy its tokenizer."""
    on_progress("quantizing", 0, 0)
    convert_folder(plain, folder / "quantized", options)
    if options.verify:
        verify.approve(iter([verify_like(folder / "quantized", plain, on_progress)]), on_check)
    lift(folder / "quantized", MODEL_FILES)
    lift(plain, ("tokenizer*", "generation_config.json"))


def nanochat_checks(folder: Path, on_progress: Progress) -> Iterator[CheckResult]:
    yield verify.verify_load(folder)
    yield verify.verify_numbers(folder, on_progress)
    yield verify.verify_nanochat_tokenizer(folder, read_json(folder / "config.json")["vocab_size"])
    tokenizer = NanochatTokenizer.load(folder)
    yield verify.verify_generation(folder, tokenizer, [tokenizer.bos_id], on_progress)


# --- model folders -----------------------------------------------------------------------------------


def _convert_folder(
    source: Source, output: Path, options: Options, on_progress: Progress, on_check: OnCheck
) -> Conversion:
    """Convert a folder in transformers' format, or a nanochat model that was converted or trained here."""
    config = read_json(source.folder / "config.json")
    _refuse_options(source, config, options)
    original = weights_size(source.folder)
    _check_folder(source.folder, config, output, options)
    ours = config.get("model_type") in NANOCHAT_TYPES and (source.folder / "tokenizer.pkl").is_file()
    with staged(output, options.force) as folder, verify.lean_memory():
        on_progress("converting", 0, 0)
        convert_folder(source.folder, folder, options)
        if options.verify:
            verify.approve(iter([verify_like(folder, source.folder, on_progress)]), on_check)
        _write_tokenizer(source.folder, config, folder, options)
        if options.verify:
            checks = nanochat_checks if ours else checks_against(source.folder, options.trust_remote_code)
            verify.approve(checks(folder, on_progress), on_check)
        parameters, layers, size = measure(folder)
    return Conversion(
        output=output,
        source_bytes=original,
        output_bytes=size,
        parameters=parameters,
        layers=layers,
        is_nanochat=ours,
    )


def _refuse_options(source: Source, config: dict[str, Any], options: Options) -> None:
    """Raise ConversionError for options that do not apply to a model folder."""
    if options.renames or options.step is not None:
        raise ConversionError(
            f"{source.name} is a model folder, to which `--rename` and `--step` do not apply",
            "leave them out",
        )
    if options.quantize and ("quantization" in config or "quantization_config" in config):
        raise ConversionError(
            f"{source.name} is already quantized",
            "quantize the original model, or leave `--quantize` out",
        )


def _check_folder(folder: Path, config: dict[str, Any], output: Path, options: Options) -> None:
    """Raise ModelError if weights and tokenizer do not fit each other, ConversionError without disk space."""
    model, _ = load_model_folder(folder)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise ConversionError(
            f"{folder} has no tokenizer (tokenizer.json)", "download or copy the model again"
        )
    check_vocabulary(load_tokenizer(folder, config, options.trust_remote_code), model, config, folder)
    numbers = count_parameters(model)
    if options.quantize:
        needed = numbers * (options.bits + 1) // 8
    else:
        needed = numbers * DTYPES[options.dtype].size if options.dtype else weights_size(folder)
    check_space(output, needed, "free some space, or choose another disk with `--output`")


def _write_tokenizer(source: Path, config: dict[str, Any], folder: Path, options: Options) -> None:
    """Write the source's tokenizer, and its generation_config.json if it has one.

    Raises ConversionError for a tokenizer that exists only as code: no file could replace it.
    """
    load_tokenizer(source, config, options.trust_remote_code).save(folder)
    copy_generation_config(source, folder)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise ConversionError(
            f"the tokenizer of {source} is a program: it has no tokenizer.json, and none can be generated "
            "from it",
            "look for a version of the model with a tokenizer.json",
            trouble="own-code",
        )


def copy_generation_config(source: Path, folder: Path) -> None:
    """Copy a model's generation_config.json."""
    content = generation_config(source)
    if content is not None:
        (folder / "generation_config.json").write_bytes(content)


def checks_against(source: Path, trust_remote_code: bool = False):  # type: ignore[no-untyped-def]
    """The checks of a folder in transformers' format, whose tokenizer must equal the source's."""

    def checks(folder: Path, on_progress: Progress) -> Iterator[CheckResult]:
        yield verify.verify_load(folder)
        yield verify.verify_numbers(folder, on_progress)
        config = read_json(folder / "config.json")
        original = load_tokenizer(source, config, trust_remote_code)
        tokenizer = load_tokenizer(folder, config)
        yield verify.compare_tokenizers(original.encode, tokenizer.encode, None)
        yield verify.verify_generation(folder, tokenizer, [], on_progress)

    return checks


# --- shared ------------------------------------------------------------------------------------------


def lift(inner: Path, patterns: tuple[str, ...]) -> None:
    """Move matching files of a folder one level up, and remove the folder."""
    for pattern in patterns:
        for path in inner.glob(pattern):
            path.rename(inner.parent / path.name)
    shutil.rmtree(inner)


def measure(folder: Path) -> tuple[int, int, int]:
    """Number of parameters, number of layers, and bytes of the weights."""
    model, _ = load_weights(folder)
    return count_parameters(model), len(model.layers), weights_size(folder)


def weights_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def _check_space_for(output: Path, checkpoint: Checkpoint, options: Options) -> None:
    """Raise ConversionError if the disk cannot hold the result and, before it, the unquantized one."""
    numbers = sum(tensor.count for tensor in checkpoint.tensors)
    width = DTYPES[options.dtype].size if options.dtype else 4
    needed = numbers * width + (numbers * (options.bits + 1) // 8 if options.quantize else 0)
    hint = "free some space, or choose another disk with `--output`"
    check_space(output, needed, hint if width == 2 else f"{hint}; `--dtype bfloat16` takes half")
