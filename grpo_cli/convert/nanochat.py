"""Convert a nanochat checkpoint to a model folder, streamed tensor by tensor, with its tokenizer.

    checkpoint = open_checkpoint(source, renames=())     # checks everything, writes nothing
    write_model(checkpoint, folder, dtype=None)

The folder gets safetensors shards, config.json, generation_config.json, tokenizer.json,
tokenizer_config.json and the untouched tokenizer.pkl; for the current nanochat also the source file of
its model. The data for converting back is under `nanochat` in config.json.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_cli.convert.architecture import Architecture, ModelConfig, read_model_config, recognize
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.name_map import StripPrefix, check_used, forward, parse_renames
from grpo_cli.convert.options import Progress, no_progress
from grpo_cli.convert.outgoing import OutgoingTensor, counted
from grpo_cli.convert.safetensors_writer import write_shards
from grpo_cli.convert.source import Source
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.models.classes import save_code
from grpo_cli.models.nanochat_fast import hf_tokenizer
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer, read_encoding
from grpo_cli.untrusted_json import DamagedFile, read_object

COMPILED = StripPrefix("_orig_mod.")  # torch.compile's
LARGEST_META = 4 << 20  # bytes; real ones have about one thousand


class Provenance(BaseModel):
    """Facts about the original under `nanochat` in config.json, for converting back."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    step: Annotated[int, Field(ge=0)] = 0
    meta: dict[str, Any] = {}
    rows: Annotated[int, Field(ge=1, le=1 << 24)] | None = None  # of the embeddings; None: one per token
    stored_as: dict[str, Literal["bfloat16", "float16"]] | None = None  # None: as a CUDA run writes


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An open checkpoint with consistent parts."""

    source: Source
    meta: dict[str, Any]
    architecture: Architecture
    tensors: list[OutgoingTensor]  # under the model's names, in the file's formats
    stored: dict[str, str]  # number format of each in the file
    rows: int  # of the embeddings in the file
    tokenizer_file: Path
    tokenizer: NanochatTokenizer


@contextmanager
def open_checkpoint(source: Source, renames: Sequence[str]) -> Iterator[Checkpoint]:
    """Read and check everything that can be known before a byte is written.

    Raises ConversionError for damaged or ambiguous files, ModelError for the tokenizer.
    """
    extra = parse_renames(renames)
    meta = read_meta(source.meta_file)
    model_config = read_model_config(meta, source.meta_file)
    tokenizer_file = find_tokenizer(source)
    tokenizer = NanochatTokenizer(read_encoding(tokenizer_file, source.repository))
    hf_tokenizer(tokenizer.encoding)  # fails early if other programs cannot read the pattern
    check_vocabulary(tokenizer, model_config)
    with TorchFile(source.model_file) as file:
        tensors = forward([COMPILED], _tensors(file))
        check_used(extra, tensors)
        tensors = forward(extra, tensors)
        _check_distinct(tensors, source)
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        architecture = recognize(shapes, model_config, str(source.model_file))
        yield Checkpoint(
            source=source,
            meta=meta,
            architecture=architecture,
            tensors=forward(architecture.operations, tensors),
            stored={tensor.name: tensor.dtype.name for tensor in tensors},
            rows=shapes["transformer.wte.weight"][0],
            tokenizer_file=tokenizer_file,
            tokenizer=tokenizer,
        )


def write_model(
    checkpoint: Checkpoint, folder: Path, dtype: str | None, on_progress: Progress = no_progress
) -> list[OutgoingTensor]:
    """Write the model into an existing empty folder; returns the tensors as written."""
    target = dtype or widest(checkpoint.tensors)
    tensors = [replace(tensor, save_as=DTYPES[target]) for tensor in checkpoint.tensors]
    write_shards(folder, counted(tensors, "writing", on_progress))
    config = config_of(checkpoint, target)
    _write_json(folder / "config.json", config)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    _write_json(folder / "generation_config.json", ends)
    save_code(config, folder)
    save_tokenizer(checkpoint.tokenizer_file, folder)
    return tensors


def config_of(checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """config.json, with the data for converting back."""
    tokenizer = checkpoint.tokenizer
    narrow = {name: kind for name, kind in checkpoint.stored.items() if kind in ("bfloat16", "float16")}
    provenance = Provenance.model_validate(
        {
            "step": int(checkpoint.source.step or 0),
            "meta": checkpoint.meta,
            "rows": checkpoint.rows,
            "stored_as": narrow,
        }
    )
    return {
        **checkpoint.architecture.config,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": list(tokenizer.end_ids),
        "torch_dtype": dtype,
        "nanochat": provenance.model_dump(),
    }


def save_tokenizer(file: Path, folder: Path) -> None:
    """Copy tokenizer.pkl unchanged, and write the same vocabulary for other programs."""
    shutil.copyfile(file, folder / "tokenizer.pkl")
    NanochatTokenizer.load(folder).save(folder)


def read_meta(path: Path) -> dict[str, Any]:
    """The content of meta_<step>.json. Raises ConversionError if it is missing or not a JSON object."""
    try:
        return read_object(path, LARGEST_META)
    except FileNotFoundError:
        raise ConversionError(
            f"{path} is missing", "it belongs next to the `.pt` file of the same step; copy both"
        ) from None
    except DamagedFile as error:
        raise ConversionError(f"{path} {error}", "copy or download it again") from error
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}") from error


def find_tokenizer(source: Source) -> Path:
    """tokenizer.pkl next to the weights, or in nanochat's own folders."""
    folder = source.folder.resolve()
    places = [folder, folder / "tokenizer", folder.parent.parent / "tokenizer"]
    for place in places:
        if (place / "tokenizer.pkl").is_file():
            return place / "tokenizer.pkl"
    raise ConversionError(
        f"there is no tokenizer.pkl in {source.folder}",
        "copy the tokenizer of the same nanochat run there (`~/.cache/nanochat/tokenizer/tokenizer.pkl`): "
        "each run trains its own, and another one gives garbled text",
    )


def check_vocabulary(tokenizer: NanochatTokenizer, model_config: ModelConfig) -> None:
    """Raise ConversionError if the tokenizer is another model's: its text would be garbled."""
    if tokenizer.vocab_size != model_config.vocab_size:
        raise ConversionError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model_config.vocab_size}",
            "take tokenizer.pkl, meta and weights from the same nanochat run: another tokenizer gives "
            "garbled text",
            trouble="vocabulary",
        )


def widest(tensors: Sequence[OutgoingTensor]) -> str:
    """The number format that holds every tensor exactly: float32 if any is wider than two bytes."""
    names = {tensor.dtype.name for tensor in tensors}
    return names.pop() if len(names) == 1 and names <= {"bfloat16", "float16"} else "float32"


def _tensors(file: TorchFile) -> list[OutgoingTensor]:
    """Every tensor of the file. Raises ConversionError for a non-floating one."""
    for name, info in file.tensors.items():
        if not info.dtype.is_floating:
            raise ConversionError(
                f"the tensor {name} of {file.path} holds {info.dtype.name}, which no nanochat weight does",
                "convert a model's file, `model_<step>.pt`",
            )

    def outgoing(name: str) -> OutgoingTensor:
        info = file.tensors[name]
        return OutgoingTensor(name=name, dtype=info.dtype, shape=info.shape, read=lambda: file.view(name))

    return [outgoing(name) for name in file.tensors]


def _check_distinct(tensors: Sequence[OutgoingTensor], source: Source) -> None:
    times = Counter(tensor.name for tensor in tensors)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise ConversionError(
            f"several tensors of {source.model_file} would be named {', '.join(twice[:3])}",
            "give each a name of its own with `--rename`",
        )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
