"""The source of a conversion: a short name, a hub repository or a folder; its files determine the format.

    find_source("nanochat-d32")          # karpathy/nanochat-d32 on the hub: nanochat's own files
    find_source("chatsft_checkpoints/d20", step=650)
    find_source("HuggingFaceTB/SmolLM2-135M-Instruct")     # transformers' format

Only the necessary files of a repository are fetched, and compared with the hub's checksums.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grpo_cli.config.local_model import check_name
from grpo_cli.convert.errors import ConversionError
from grpo_cli.errors import ModelError
from grpo_cli.files import expanded_name
from grpo_cli.foreign_text import quoted
from grpo_cli.models import hub
from grpo_cli.models.adapter_config import read_adapter_config
from grpo_cli.models.find import HUB_FILES

SHORT_NAMES = {
    "nanochat": "sdobson/nanochat",
    "nanochat-d20": "sdobson/nanochat",
    "nanochat-d32": "karpathy/nanochat-d32",
    "nanochat-d34": "karpathy/nanochat-d34",
}
MODEL_FILE = re.compile(r"model_(\d+)\.pt")
PICKLED_WEIGHTS = re.compile(r"pytorch_model.*\.bin|consolidated.*\.pth|.*\.pth|.*\.ckpt")

Kind = Literal["nanochat", "transformers"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint on this machine. `step`: the selected one in a nanochat folder, else None."""

    name: str  # as requested
    kind: Kind
    folder: Path
    repository: str | None = None  # hub repository it came from
    step: str | None = None  # as its files spell it: "000650"

    @property
    def model_file(self) -> Path:
        """nanochat's model_<step>.pt."""
        return self.folder / f"model_{self.step}.pt"

    @property
    def meta_file(self) -> Path:
        """nanochat's meta_<step>.json."""
        return self.folder / f"meta_{self.step}.json"


def short_name(name: str) -> str:
    """A name's last part, for the output folder: `nanochat-d32`, `run-final` for a checkpoint of a run."""
    path = Path(expanded_name(name))
    if name in SHORT_NAMES or not path.exists():
        return name.rpartition("/")[2]
    folder = (path.parent if path.is_file() else path).resolve()
    is_of_run = folder.name == "final" or folder.name.startswith("checkpoint-")
    return f"{folder.parent.name}-{folder.name}" if is_of_run else folder.name


def find_source(name: str, step: int | None = None, on_progress: hub.Progress = hub.no_progress) -> Source:
    """Find the source for a name, and fetch it if it is on the hub.

    A folder that holds a model has priority over a short name of the same spelling. Raises ConversionError if
    there is nothing to convert, or not this step; ModelError if the hub refuses.
    """
    path = Path(expanded_name(name))
    if path.is_file() and MODEL_FILE.fullmatch(path.name):
        own = _step_of(path.name)
        if step not in (None, own):
            raise ConversionError(
                f"{name} is of step {own}, and `--step {step}` asks for another",
                f"leave `--step` out, or name the folder {path.parent}",
            )
        return _nanochat(name, path.parent, None, _names(path.parent), own)
    if path.is_file():
        raise ConversionError(f"{name} is a file", f"name its folder: {path.parent}")
    if name and path.is_dir() and (name not in SHORT_NAMES or _kind(_names(path))):
        return _local(name, path, step)
    return _fetched(name, repository_of(name), step, on_progress)


def check_there(name: str) -> None:
    """Raise ConversionError early for a name that is neither on this disk nor a hub name."""
    if not Path(expanded_name(name)).exists():
        repository_of(name)


def repository_of(name: str) -> str:
    """The hub repository for a name without a folder. Raises ConversionError if there is none."""
    repository = SHORT_NAMES.get(name, name)
    try:
        check_name(repository)
    except ModelError as error:
        raise ConversionError(error.message, _where_to_look(name), trouble=error.trouble) from error
    return repository


def _where_to_look(name: str) -> str:
    """The hint for an unknown name."""
    if name.startswith(("https://", "http://")):
        return f"a repository is named without the hub's address: {'/'.join(name.split('/')[3:5])}"
    return (
        f"the short names are {', '.join(SHORT_NAMES)}; else name a folder, or a hub repository (owner/name)"
    )


def _local(name: str, folder: Path, step: int | None) -> Source:
    names = _names(folder)
    kind = _kind(names)
    if kind is None:
        raise _nothing(str(folder), names)
    if kind == "transformers":
        return Source(name=name, kind=kind, folder=folder)
    return _nanochat(name, folder, None, names, step)


def _fetched(name: str, repository: str, step: int | None, on_progress: hub.Progress) -> Source:
    names = hub.repository_files(repository)
    kind = _kind(names)
    if kind is None:
        raise _nothing(repository, names)
    if kind == "transformers":
        folder = hub.fetch(repository, HUB_FILES, on_progress, check=True)
        return Source(name=name, kind=kind, folder=folder, repository=repository)
    source = _nanochat(name, Path(), repository, names, step)
    needed = [source.model_file.name, source.meta_file.name, "tokenizer.pkl"]
    for file in needed:
        if file not in names:
            raise hub.missing_file(repository, file, names)
    folder = hub.fetch(repository, needed, on_progress, check=True)
    return Source(name=name, kind=kind, folder=folder, repository=repository, step=source.step)


def _nanochat(
    name: str, folder: Path, repository: str | None, names: Sequence[str], step: int | None
) -> Source:
    """The requested step, else the newest."""
    spelt = {
        _step_of(file): file[len("model_") : -len(".pt")] for file in names if MODEL_FILE.fullmatch(file)
    }
    chosen = max(spelt) if step is None else step
    if chosen not in spelt:
        steps = ", ".join(str(number) for number in sorted(spelt))
        raise ConversionError(f"{name} has no step {step}", f"it has {steps}: choose one with `--step`")
    return Source(name=name, kind="nanochat", folder=folder, repository=repository, step=spelt[chosen])


def _kind(names: Sequence[str]) -> Kind | None:
    """The format of the files; nanochat's own if there are both, since it is the original."""
    if any(MODEL_FILE.fullmatch(name) for name in names):
        return "nanochat"
    has_weights = any(name.endswith(".safetensors") and name.startswith("model") for name in names)
    return "transformers" if has_weights and "config.json" in names else None


def _nothing(place: str, names: Sequence[str]) -> ConversionError:
    """The error for a place without anything to convert, with the reason."""
    if "adapter_config.json" in names:
        if Path(place).is_dir():
            read_adapter_config(Path(place))  # raises for adapters that cannot be fused
        return ConversionError(
            f"{place} holds LoRA adapters, which are not a model by themselves",
            f"merge them into their base: `grpo convert --fuse {quoted(place)}`; "
            f"`grpo eval --model {quoted(place)}` takes them as they are",
        )
    pickled = [name for name in names if PICKLED_WEIGHTS.fullmatch(name)]
    if pickled:
        return ConversionError(
            f"{place} holds its weights only as {pickled[0]}, a pickle that can run code",
            "look for a revision or a repository with `.safetensors` files",
        )
    found = ", ".join(names[:8]) or "nothing"
    inside = [folder for folder in _folders(Path(place)) if _kind(_names(folder))]
    if inside:
        return ConversionError(f"{place} is a folder of models", f"name one of them: {inside[-1]}")
    return ConversionError(
        f"{place} holds no model that can be converted (found: {found})",
        "name a folder or repository with nanochat's `model_<step>.pt` and `meta_<step>.json`, "
        "or with `config.json` and `model*.safetensors`",
    )


def _folders(place: Path) -> list[Path]:
    """The folders in a place and one level below, as in nanochat's own: chatrl_checkpoints/d20."""
    return sorted(path for pattern in ("*", "*/*") for path in place.glob(pattern) if path.is_dir())


def _names(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir())


def _step_of(file: str) -> int:
    match = MODEL_FILE.fullmatch(file)
    return int(match[1]) if match else -1
