"""Whether the files of a model's folder are there and whole."""

from collections.abc import Iterator
from pathlib import Path

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, error, ok, quoted, skipped
from grpo_cli.doctor.model_folder import (
    ADAPTERS,
    base_folder,
    config_of,
    damaged,
    headers,
    weight_files,
)
from grpo_cli.models.safetensors_header import Tensor, is_pointer, read_header
from grpo_cli.untrusted_json import DamagedFile, read_object

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.pkl", "tokenizer.json", "tokenizer.model", "vocab.json")
SHOWN = 3  # names of tensors or files in a line
OTHERS = ("*.bin", "*.pt", "*.gguf")  # weights in formats that are not read here


def files(case: Case) -> Iterator[Finding]:
    """The files are there and their headers can be read."""
    folder = case.model_folder
    if folder is None:
        yield skipped("the model is not on this machine")
        return
    base = base_folder(case)
    problems = [*small_files(case, base), *weights_there(case, base)]
    if base != folder:
        problems += readable(case, [folder / ADAPTERS])
    yield from problems
    if not problems:
        tensors, paths = headers(base), weight_files(base)
        size = sum(path.stat().st_size for path in paths)
        kind = config_of(base).get("model_type")
        seen = f"{kind}: {plural(len(paths), 'file')} of weights, {len(tensors)} tensors, {size / 1e6:.1f} MB"
        seen += f"; adapters on {base}" if base != folder else ""
        yield ok(seen, files=len(paths), tensors=len(tensors), bytes=size, model_type=kind)


def small_files(case: Case, folder: Path) -> Iterator[Finding]:
    """What is wrong with config.json and with the JSON files beside it."""
    for path in sorted({folder / "config.json", *folder.glob("*.json")}):
        try:
            with path.open("rb") as file:
                if is_pointer(file.read(64)):
                    raise DamagedFile("is a Git LFS pointer: the file itself was never fetched")
            content = read_object(path)
        except FileNotFoundError:
            yield damaged(case, path, "is missing")
        except (OSError, DamagedFile) as problem:
            yield damaged(case, path, problem)
        else:
            if path.name == "config.json" and not isinstance(content.get("model_type"), str):
                yield damaged(case, path, "names no `model_type`: it is not a model's configuration")
    if not any((folder / name).exists() for name in TOKENIZERS):
        yield damaged(case, folder / "tokenizer.json", "is missing, and tokenizer.pkl too")


def weights_there(case: Case, folder: Path) -> Iterator[Finding]:
    """What is wrong with the files of weights."""
    paths = weight_files(folder)
    if (folder / INDEX).is_file():
        yield from by_index(case, folder, paths)
    elif not paths:
        yield no_weights(case, folder)
        return
    elif len(paths) > 1 and not (folder / INDEX).exists():
        yield from without_index(paths)
    yield from readable(case, paths)


def no_weights(case: Case, folder: Path) -> Finding:
    """The finding for a folder that has none that are read here."""
    other = next((path.name for pattern in OTHERS for path in sorted(folder.glob(pattern))), None)
    if other:
        cure = f"{other} is of another format: convert it"
        return error(f"no model*.safetensors, but {other}", cure, f"grpo convert {quoted(folder)}")
    return damaged(case, folder / "model.safetensors", "is missing: the folder holds no weights")


def by_index(case: Case, folder: Path, paths: list[Path]) -> Iterator[Finding]:
    """What differs between the index and the files: missing ones, and stale ones of another model."""
    try:
        places = read_object(folder / INDEX).get("weight_map")
    except (OSError, DamagedFile):
        return  # told of by small_files
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        yield damaged(case, folder / INDEX, "has no `weight_map` of names and files")
        return
    named = set(places.values())
    for name in sorted(named - {path.name for path in paths}):
        yield damaged(case, folder / Path(name).name, f"is missing, and {INDEX} names it")
    for path in paths:
        if path.name not in named:
            yield stale(path, f"is not in {INDEX}")
        elif lacking := sorted(tensor for tensor in _told(places, path) if tensor not in _names(path)):
            yield damaged(case, path, f"lacks {some(lacking)}, which {INDEX} says it holds")


def _told(places: dict[str, str], path: Path) -> list[str]:
    return [tensor for tensor, name in places.items() if name == path.name]


def _names(path: Path) -> dict[str, Tensor]:
    try:
        return read_header(path)
    except (OSError, DamagedFile):
        return {}


def without_index(paths: list[Path]) -> Iterator[Finding]:
    """Files of weights that hold the same tensors: one of them is of another model."""
    seen: dict[str, Path] = {}
    for path in paths:
        twice = [name for name in _names(path) if name in seen]
        if twice:
            yield stale(path, f"holds {some(twice)}, which {seen[twice[0]].name} holds too")
        seen |= dict.fromkeys(_names(path), path)


def stale(path: Path, problem: str) -> Finding:
    """The finding for a file of weights that does not belong to the model."""
    return error(
        f"{path.name} {problem}",
        "a file of an earlier download or conversion: every model*.safetensors is loaded, so move it away",
        f"mv {quoted(path)} {quoted(f'{path}.aside')}",
        file=path.name,
    )


def readable(case: Case, paths: list[Path]) -> Iterator[Finding]:
    """Files whose header cannot be read, or does not fit the file's size."""
    for path in paths:
        try:
            read_header(path)
        except FileNotFoundError:
            yield damaged(case, path, "is missing")
        except (OSError, DamagedFile) as problem:
            yield damaged(case, path, problem)


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
