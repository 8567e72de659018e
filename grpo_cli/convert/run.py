"""A whole conversion: find the source, write a folder beside its place, prove it, rename it.

    done = convert("nanochat-d32", Options(), on_progress=…, on_check=…)      # models/nanochat-d32-mlx

Nothing half-done is left behind: the output appears when everything is written and verified.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from grpo_cli import device
from grpo_cli.convert import verify
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.nanochat import Checkpoint, open_checkpoint, write_model
from grpo_cli.convert.options import Check, Conversion, OnCheck, Options, Progress, no_check, no_progress
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.source import Source, find_source
from grpo_cli.convert.staging import check_output, existing_parent, staged
from grpo_cli.convert.through_mlx_lm import convert_folder
from grpo_cli.models.classes import load_weights
from grpo_cli.models.load import load_tokenizer
from grpo_cli.models.tree import count_parameters


def convert(
    name: str, options: Options, on_progress: Progress = no_progress, on_check: OnCheck = no_check
) -> Conversion:
    """Convert what a name stands for; `on_check` is told of every check as it is made.

    Raises ConversionError or ModelError for a source that cannot be converted, and ConversionError where
    the result is not what it should be; then nothing is left of it.
    """
    device.prepare()
    if options.output is not None:  # before a download of gigabytes
        check_output(options.output, options.force)
    source = find_source(name, options.step, lambda done, total: on_progress("fetching", done, total))
    output = options.output or Path("models") / f"{source.short_name}-mlx"
    check_output(output, options.force)
    _refuse_overwriting(source, output)
    convert_source = _convert_nanochat if source.kind == "nanochat" else _convert_transformers
    return convert_source(source, output, options, on_progress, on_check)


def _convert_nanochat(
    source: Source, output: Path, options: Options, on_progress: Progress, on_check: OnCheck
) -> Conversion:
    with open_checkpoint(source, options.renames) as checkpoint:
        plain = sum(tensor.size for tensor in checkpoint.tensors)
        _check_space(output, 2 * plain if options.quantize else plain)
        with staged(output, options.force) as folder:
            tensors = write_model(checkpoint, folder, options.dtype, on_progress)
            if options.quantize:
                on_progress("quantising", 0, 0)
                _quantise(folder, options)
            if options.verify:
                approve(_nanochat_checks(folder, checkpoint, tensors, options, on_progress), on_check)
            parameters, layers, size = _measure(folder)
    return Conversion(output, source.model_file.stat().st_size, size, parameters, layers)


def _convert_transformers(
    source: Source, output: Path, options: Options, on_progress: Progress, on_check: OnCheck
) -> Conversion:
    if options.renames or options.step is not None:
        raise ConversionError(
            f"{source.name} is in transformers' format, where `--rename` and `--step` mean nothing",
            "leave them out",
        )
    original = _weights_size(source.folder)
    _check_space(output, original)
    with staged(output, options.force) as folder:
        on_progress("converting", 0, 0)
        convert_folder(source.folder, folder / "converted", options)
        _lift(folder / "converted", ("*",))
        if options.verify:
            approve(_transformers_checks(folder, source, on_progress), on_check)
        parameters, layers, size = _measure(folder)
    return Conversion(output, original, size, parameters, layers, is_nanochat=False)


def _nanochat_checks(
    folder: Path,
    checkpoint: Checkpoint,
    tensors: list[OutgoingTensor],
    options: Options,
    on_progress: Progress,
) -> Iterator[Check]:
    compare = verify.verify_quantised if options.quantize else verify.verify_equal
    yield compare(folder, tensors, on_progress)
    yield verify.verify_load(folder)
    yield verify.verify_numbers(folder, on_progress)
    vocabulary = checkpoint.architecture.config["vocab_size"]
    yield verify.verify_nanochat_tokenizer(folder, vocabulary)
    yield verify.verify_generation(folder, checkpoint.tokenizer, [checkpoint.tokenizer.bos_id], on_progress)


def _transformers_checks(folder: Path, source: Source, on_progress: Progress) -> Iterator[Check]:
    yield verify.verify_load(folder)
    yield verify.verify_numbers(folder, on_progress)
    config = verify.read_config(folder)
    original, tokenizer = load_tokenizer(source.folder, config), load_tokenizer(folder, config)
    yield verify.compare_tokenizers(original.encode, tokenizer.encode, None)
    yield verify.verify_generation(folder, tokenizer, [], on_progress)


def approve(checks: Iterator[Check], on_check: OnCheck) -> None:
    """Make every check. Raises ConversionError at the first that fails."""
    with verify.lean_memory():
        for check in checks:
            on_check(check)
            if not check.passed:
                raise ConversionError(
                    f"the result was checked and is not right ({check.name}: {check.seen})",
                    "nothing was kept; run it again, and if it fails again the source is damaged or its "
                    "format is not known: `--no-verify` keeps the result for a look at it",
                )


def _quantise(folder: Path, options: Options) -> None:
    """Replace the model that was written into `folder` by a quantised one; its tokenizer stays."""
    plain = folder / "plain"
    plain.mkdir()
    for path in [path for path in folder.iterdir() if path != plain]:
        path.rename(plain / path.name)
    convert_folder(plain, folder / "quantised", options, own_code=True)
    # Not the tokenizer as transformers writes it: ours is exact.
    _lift(folder / "quantised", ("model*", "*config.json", "*.py"))
    _lift(plain, ("tokenizer*",))


def _lift(inner: Path, patterns: tuple[str, ...]) -> None:
    """Move the files of a folder that match one level up, and remove the folder."""
    for pattern in patterns:
        for path in inner.glob(pattern):
            path.rename(inner.parent / path.name)
    shutil.rmtree(inner)


def _measure(folder: Path) -> tuple[int, int, int]:
    """Parameters and layers of the model, and bytes of its weights."""
    model, _ = load_weights(folder)
    return count_parameters(model), len(model.layers), _weights_size(folder)


def _weights_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def _check_space(output: Path, needed: int) -> None:
    """Raise ConversionError where the disk cannot hold the result."""
    parent = existing_parent(output)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ConversionError(
            f"the result needs {needed / 1e9:.1f} GB, and {parent} has {free / 1e9:.1f} GB free",
            "free some space, or choose another disk with `--output`; `--dtype bfloat16` takes half",
        )


def _refuse_overwriting(source: Source, output: Path) -> None:
    folder = source.folder.resolve()
    if output.resolve() in (folder, *folder.parents):
        raise ConversionError(f"{output} holds the source itself", "choose another folder with `--output`")
