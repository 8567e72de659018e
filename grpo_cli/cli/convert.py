"""`grpo convert`: nanochat checkpoints and Hugging Face models to MLX, and back to the formats of others."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_cli.cli.doing import doing
from grpo_cli.cli.heavy import start_device
from grpo_cli.convert.targets import refusal
from grpo_cli.files import expanded_name
from grpo_cli.foreign_text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpo_cli.convert.options import Conversion


class DTypeOption(StrEnum):
    """Number formats that weights are written in."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Bits(StrEnum):
    """Bits per quantized weight."""

    two = "2"
    three = "3"
    four = "4"
    six = "6"
    eight = "8"


class GroupSize(StrEnum):
    """Group sizes: number of weights that share a scale."""

    small = "32"
    medium = "64"
    large = "128"


class Target(StrEnum):
    """Target formats."""

    mlx = "mlx"
    hf = "hf"
    peft = "peft"
    gguf = "gguf"
    nanochat = "nanochat"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="nanochat-d32, nanochat-d20 (or nanochat), nanochat-d34, a hub repository, or a folder.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder to write (default: models/<name>-mlx)."),
    ] = None,
    quantize: Annotated[bool, typer.Option("--quantize", help="Quantize the weights.")] = False,
    bits: Annotated[
        Bits | None,
        typer.Option("--bits", metavar="2|3|4|6|8", help="Bits per quantized weight (default: 4)."),
    ] = None,
    group_size: Annotated[
        GroupSize | None,
        typer.Option(
            "--group-size", metavar="32|64|128", help="Weights per quantization group (default: 64)."
        ),
    ] = None,
    dtype: Annotated[
        DTypeOption | None,
        typer.Option(
            "--dtype",
            metavar="bfloat16|float16|float32",
            help="Data type of the weights (default: unchanged).",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, metavar="N", help="Step of a nanochat folder (default: newest)."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Rename a tensor; * matches any text."),
    ] = None,
    to: Annotated[
        Target,
        typer.Option(
            "--to",
            metavar="mlx|hf|peft|gguf|nanochat",
            help="Target format: mlx-lm, transformers, PEFT adapters, llama.cpp or nanochat's own files.",
        ),
    ] = Target.mlx,
    fuse: Annotated[
        bool,
        typer.Option("--fuse", help="Merge a folder's adapters (LoRA, DoRA) into their base model."),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="OWNER/NAME", help="Upload the result to the hub with a model card; asks first."
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository of --push public.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload without asking.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run the code that comes with the tokenizer; the converted tokenizer needs none.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Check the result and generate a few tokens."),
    ] = True,
) -> None:
    """Convert a model for MLX, or back.

    Exact and verified, without torch; --to hf fuses adapters, --to nanochat writes nanochat's own files.
    """
    if (bits or group_size) and not quantize:
        raise typer.BadParameter("--bits and --group-size need --quantize")
    given = {
        "--quantize": quantize, "--dtype": dtype, "--step": step is not None, "--rename": rename,
        "--fuse": fuse, "--trust-remote-code": trust_remote_code,
    }  # fmt: skip
    if reason := refusal(to.value, [option for option, value in given.items() if value]):
        raise typer.BadParameter(reason)
    if (public or yes) and not push:
        raise typer.BadParameter("--public and --yes need --push OWNER/NAME")
    with doing(f"looking for {source} …"):
        from grpo_cli.cli.conversion import conversion_display, print_result
        from grpo_cli.convert.options import Options
        from grpo_cli.convert.source import check_there

        check_there(source)  # before the slow import of MLX
        if push:
            from grpo_cli.convert.push import check_repository

            check_repository(push)
        start_device()
        convert_source = conversion(to, fuse)
    options = Options(
        output=output,
        quantize=quantize,
        bits=int(bits or Bits.four),
        group_size=int(group_size or GroupSize.medium),
        dtype=dtype.value if dtype else None,
        step=step,
        renames=tuple(rename or ()),
        force=force,
        verify=verify,
        trust_remote_code=trust_remote_code,
    )
    with conversion_display() as display:
        if verify:
            check_intact(source)
        done = convert_source(source, options, display.progress, display.check)
    print_result(done, display.checks, to.value)
    if push:
        from grpo_cli.cli.push import push as push_result

        push_result(done, source, to.value, push, is_public=public, yes=yes)


def check_intact(source: str) -> None:
    """Raise ConversionError if a run's checkpoint does not match its manifest."""
    from grpo_cli.convert.errors import ConversionError
    from grpo_cli.engine.run_dir.manifest import MANIFEST, damage

    folder = Path(expanded_name(source))
    problem = damage(folder) if (folder / MANIFEST).is_file() else None
    if problem is not None:
        raise ConversionError(
            f"{source} is damaged: {problem}",
            f"convert another checkpoint from the run: `ls {quoted(folder.parent)}`",
            trouble="checkpoint-files",
        )


def conversion(to: Target, fuse: bool) -> "Callable[..., Conversion]":
    """The conversion function for a target."""
    if to is Target.nanochat:
        from grpo_cli.convert.to_nanochat import convert_back

        return convert_back
    if to in (Target.hf, Target.gguf):
        from grpo_cli.convert.to_hf import convert_to_hf

        return convert_to_hf
    if to is Target.peft:
        from grpo_cli.convert.to_peft import convert_to_peft

        return convert_to_peft
    if fuse:
        from grpo_cli.convert.fuse import fuse as fuse_source

        return fuse_source
    from grpo_cli.convert.run import convert as convert_source

    return convert_source
