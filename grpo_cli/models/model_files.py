"""Find problems with the files of a model folder without MLX, for the loader and the doctor.

    for problem in file_problems(Path("models/SmolLM2")):
        problem.path.name, problem.text        # 'model.safetensors', 'is cut off: 1,000 of 269,060,552 bytes'

Every command refuses the problems reported here, and the doctor reports no others as errors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grpo_cli.models.safetensors_header import Tensor, is_pointer, read_header
from grpo_cli.untrusted_json import LARGEST_FILE, DamagedFile, Schema, checked, read_bytes, read_object, shown

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
LARGEST_CONFIG = 4_000_000  # bytes; real files are below 0.1 MB
# Other files that mlx-lm and transformers read as JSON.
OTHER_JSON = (
    *("generation_config.json", "hf_quant_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.json", "vocab.json", "chat_template.json"),
)
ADDED_TOKENS_IN = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ADDED_TOKEN_KEYS = frozenset(
    {"__type", "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}
)
# Files that are a whole tokenizer each or, as a tuple, together.
TOKENIZERS = (
    *("tokenizer.pkl", "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "tiktoken.model", "*.tiktoken", "vocab.txt"),
)
VOCABULARY = ("vocab.json", "merges.txt")
# Exceptions of a model or tokenizer that is built from a damaged or hostile config.json.
BREAKDOWNS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
SHOWN = 3  # maximum names of tensors or files in a line

Kind = Literal["damaged", "missing", "stale", "no weights"]


@dataclass(frozen=True)
class FileProblem:
    """A problem that keeps a model from loading; `text` continues a sentence after the file name."""

    path: Path
    text: str
    kind: Kind = "damaged"


class _Index(Schema):
    weight_map: dict[str, str]


def file_problems(folder: Path) -> Iterator[FileProblem]:
    """Problems of a model folder: JSON, weights and tokenizer files."""
    yield from json_problems(folder)
    yield from weight_problems(folder)
    if not has_tokenizer(folder):
        yield FileProblem(folder / "tokenizer.json", "is missing, and tokenizer.pkl too", "missing")


def json_problems(folder: Path) -> Iterator[FileProblem]:
    """Problems of config.json and other JSON files."""
    for name in (CONFIG, *OTHER_JSON):
        path = folder / name
        if name != CONFIG and not path.exists():
            continue
        try:
            if is_pointer(read_bytes(path, LARGEST_FILE)[:64]):
                raise DamagedFile("is a Git LFS pointer: the file itself was never fetched")
            content = read_object(path, LARGEST_CONFIG if name == CONFIG else LARGEST_FILE)
            if name == CONFIG and not isinstance(content.get("model_type"), str):
                raise DamagedFile("names no `model_type`: it is not a model's configuration")
            if name in ADDED_TOKENS_IN:
                _check_added_tokens(content)
        except FileNotFoundError:
            yield FileProblem(path, "is missing", "missing")
        except OSError as error:
            yield FileProblem(path, f"cannot be read: {error.strerror}")
        except DamagedFile as error:
            yield FileProblem(path, str(error))


def _check_added_tokens(content: dict[str, Any]) -> None:
    """Raise DamagedFile for an unknown key of an added token, which tokenizers would print to stdout."""
    listed, by_id = content.get("added_tokens"), content.get("added_tokens_decoder")
    entries = [*(listed if isinstance(listed, list) else []), *content.values()]
    entries += by_id.values() if isinstance(by_id, dict) else []
    for entry in entries:
        unknown = set(entry) - ADDED_TOKEN_KEYS if isinstance(entry, dict) and "content" in entry else set()
        if unknown:
            raise DamagedFile(f"has an added token with the unknown key {shown(min(unknown))}")


def has_tokenizer(folder: Path) -> bool:
    """True if any tokenizer's files exist: without them transformers makes an empty tokenizer."""
    alone = any(any(folder.glob(pattern)) for pattern in TOKENIZERS)
    return alone or all((folder / name).is_file() for name in VOCABULARY)


def weight_files(folder: Path) -> list[Path]:
    """The weight files that mlx-lm reads."""
    return sorted(folder.glob("model*.safetensors"))


def weight_problems(folder: Path) -> Iterator[FileProblem]:
    """Problems of the weight files and of their index."""
    paths = weight_files(folder)
    if (folder / INDEX).is_file():
        yield from _by_index(folder, paths)
    elif not paths:
        yield FileProblem(
            folder / "model.safetensors", "is missing: the folder holds no weights", "no weights"
        )
    else:
        yield from _twice(paths)
    yield from (problem for path in paths if (problem := header_problem(path)))


def header_problem(path: Path) -> FileProblem | None:
    """A problem with a safetensors file's header or size, or None."""
    try:
        read_header(path)
    except FileNotFoundError:
        return FileProblem(path, "is missing", "missing")
    except OSError as error:
        return FileProblem(path, f"cannot be read: {error.strerror}")
    except DamagedFile as error:
        return FileProblem(path, str(error))
    return None


def _by_index(folder: Path, paths: list[Path]) -> Iterator[FileProblem]:
    """Differences between index and files: missing files, and stale files of another model."""
    try:
        places = checked(_Index, read_object(folder / INDEX)).weight_map
    except OSError as error:
        yield FileProblem(folder / INDEX, f"cannot be read: {error.strerror}")
        return
    except DamagedFile as error:
        yield FileProblem(folder / INDEX, str(error))
        return
    named = set(places.values())
    for name in sorted(named - {path.name for path in paths}):
        text = f"names {shown(name)}, which is not there"
        is_plain = Path(name).name == name and name.isprintable()
        missing = FileProblem(folder / name, f"is missing, and {INDEX} names it", "missing")
        yield missing if is_plain else FileProblem(folder / INDEX, text)
    for path in paths:
        holds = names_in(path)
        lacking = [tensor for tensor, name in places.items() if name == path.name and tensor not in holds]
        if path.name not in named:
            yield FileProblem(path, f"is not in {INDEX}", "stale")
        elif lacking and not header_problem(path):
            yield FileProblem(path, f"lacks {some(sorted(lacking))}, which {INDEX} says it holds")


def _twice(paths: list[Path]) -> Iterator[FileProblem]:
    """Weight files that contain the same tensors: the older one belongs to another model."""
    seen: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        twice = [name for name in names_in(path) if name in seen]
        if twice:
            text = f"holds {some(twice)}, which {seen[twice[0]].name} holds too"
            yield FileProblem(path, text, "stale")
        seen |= dict.fromkeys(names_in(path), path)


def names_in(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a file; empty if it cannot be read."""
    try:
        return read_header(path)
    except (OSError, DamagedFile):
        return {}


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Name → tensor of all readable weight files."""
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        found |= names_in(path)
    return found


def some(names: list[str]) -> str:
    """The first names of a list, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def config_of(folder: Path) -> dict[str, Any]:
    """The contents of config.json; empty if it is missing or damaged."""
    try:
        return read_object(folder / CONFIG, LARGEST_CONFIG)
    except (OSError, DamagedFile):
        return {}
