"""Checks of the files in a model's folder: present and undamaged."""

import re
from collections.abc import Iterator
from pathlib import Path

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped
from grpo_cli.doctor.read.model_folder import fetch_again
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapter_config import adapters_file
from grpo_cli.models.model_files import (
    FileProblem,
    config_of,
    file_problems,
    header_problem,
    tensors_in,
    weight_files,
)
from grpo_cli.words import plural

OTHERS = ("*.bin", "*.pt", "*.pth", "*.gguf")  # weights in formats that this program does not read
OF_NANOCHAT = re.compile(r"model_\d+\.pt")


def files(context: Context) -> Iterator[Finding]:
    """The model's files are complete, and their headers can be read."""
    folder = context.model_folder
    if folder is None:
        yield skipped("the model is not on this machine")
        return
    base = context.base_folder
    own = nanochat_file(base)
    problems = [not_converted(base, own)] if own else [told(context, p) for p in file_problems(base)]
    if base != folder:
        problems += readable(context, [adapters_file(folder)])
    yield from problems
    if not problems:
        tensors, paths = tensors_in(base), weight_files(base)
        size = sum(path.stat().st_size for path in paths)
        kind = config_of(base).get("model_type")
        files, held = plural(len(paths), "file"), plural(len(tensors), "tensor")
        seen = f"{kind}: {files} of weights, {held}, {size / 1e6:.1f} MB"
        seen += f"; adapters on {base}" if base != folder else ""
        yield ok(seen, files=len(paths), tensors=len(tensors), bytes=size, model_type=kind)


def told(context: Context, problem: FileProblem) -> Finding:
    """The finding for a file problem that keeps a model from loading."""
    if problem.kind == "stale":
        return stale(problem.path, problem.text)
    if problem.kind == "no weights":
        return no_weights(context, problem.path.parent)
    return damaged(context, problem.path, problem.text)


def nanochat_file(folder: Path) -> str | None:
    """nanochat's own file of weights in a folder that was not converted yet; None if it has none."""
    if weight_files(folder) or not folder.is_dir():
        return None
    return next((path.name for path in sorted(folder.iterdir()) if OF_NANOCHAT.fullmatch(path.name)), None)


def not_converted(folder: Path, own: str) -> Finding:
    """The error for a folder with nanochat's own files, which have neither config.json nor safetensors."""
    cure = "it is nanochat's own format: convert it"
    return error(f"no model*.safetensors, but {own}", cure, f"grpo convert {quoted(folder)}")


def no_weights(context: Context, folder: Path) -> Finding:
    """The error for a folder without weights in safetensors format."""
    other = next((path.name for pattern in OTHERS for path in sorted(folder.glob(pattern))), None)
    if other:
        cure = "this format is not read: look for a revision or a repository with `.safetensors` files"
        return error(f"no model*.safetensors, but {other}", cure)
    return damaged(context, folder / "model.safetensors", "is missing: the folder holds no weights")


def stale(path: Path, problem: str) -> Finding:
    """The error for a file of weights that does not belong to the model."""
    return error(
        f"{path.name} {problem}",
        "it is left from an earlier download or conversion: every model*.safetensors is loaded, so move it "
        "away",
        f"mv {quoted(path)} {quoted(f'{path}.aside')}",
        file=path.name,
    )


def readable(context: Context, paths: list[Path]) -> Iterator[Finding]:
    """Findings for files whose header cannot be read or does not match the file's size."""
    for path in paths:
        if problem := header_problem(path):
            yield told(context, problem)


def damaged(context: Context, path: Path, problem: object) -> Finding:
    """The error for a damaged or missing file."""
    again = f"download only that file again: {path.name}"
    if (path.parent / "manifest.json").exists():
        again = "use another checkpoint of the run, or copy this one again"
    told = problem.strerror if isinstance(problem, OSError) else problem
    return error(
        f"{path.name} {told}", again, *fetch_again(path.parent, path.name, context.model), file=path.name
    )
