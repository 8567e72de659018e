"""Prove a converted model before it is called done: what was written, not what was meant to be.

    for check in verify(folder, tensors=…, …):   # weights, shapes, numbers, tokenizer, generation
        print(check.name, check.passed, check.seen)

Memory holds one tensor at a time: in the comparison by reading so, in the generation because each layer's
weights are read when the layer is computed and let go after it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from grpo_cli import device
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.nanochat import counted
from grpo_cli.convert.options import Check, Progress
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.tricky import TRICKY_TEXTS
from grpo_cli.models.classes import load_weights
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.models.tree import flat

PROMPT = "The capital of France is"
NEW_TOKENS = 8
NUMBERS_AT_ONCE = 1 << 22
REFUSALS = (ValueError, KeyError, TypeError, RuntimeError, OSError)  # how mlx and mlx-lm refuse weights


def verify_load(folder: Path) -> Check:
    """Whether the model loads strictly: every name and shape that config.json asks for, and no other."""
    try:
        model, config = load_weights(folder)
    except REFUSALS as error:
        return Check("strict load", False, str(error))
    count = len(flat(model.parameters()))
    return Check("strict load", True, f"{count} tensors, names and shapes as {config['model_type']} has them")


def verify_numbers(folder: Path, on_progress: Progress) -> Check:
    """Whether every number is finite."""
    total = sum(path.stat().st_size for path in weight_files(folder))
    done = count = 0
    broken = []
    for path in weight_files(folder):
        arrays: Any = mx.load(str(path))
        for name in sorted(arrays):
            on_progress("checking", done, total)
            array = arrays.pop(name)  # read now, and let go before the next one
            if mx.issubdtype(array.dtype, mx.floating):
                count += array.size
                if not is_finite(array):
                    broken.append(name)
            done += array.nbytes
            del array
    if broken:
        return Check("finite", False, f"NaN or infinite numbers in {', '.join(broken[:3])}")
    return Check("finite", True, f"{count:,} numbers, none NaN or infinite")


def is_finite(array: mx.array) -> bool:
    """Whether no number of an array is NaN or infinite; looks at some of them at a time."""
    flat_array = array.reshape(-1)
    starts = range(0, array.size, NUMBERS_AT_ONCE)
    return all(mx.isfinite(flat_array[at : at + NUMBERS_AT_ONCE]).all().item() for at in starts)


def verify_equal(folder: Path, tensors: Sequence[OutgoingTensor], on_progress: Progress) -> Check:
    """Whether the files hold the source's numbers, bit for bit where no other format was asked for."""
    places = {name: place for path in weight_files(folder) for name, place in tensor_places(path).items()}
    wrong = []
    for tensor in counted(tensors, "comparing", on_progress):
        place = places.pop(tensor.name, None)
        if place is None or not holds(place, tensor):
            wrong.append(tensor.name)
    if wrong or places:
        return Check("weights", False, f"{', '.join([*wrong, *places][:3])} differ from the source")
    rounded = sum(tensor.dtype.size > tensor.written.size for tensor in tensors)
    how = f"rounded to {tensors[0].written.name}" if rounded else "bit for bit"
    return Check("weights", True, f"{len(tensors)} of {len(tensors)} tensors equal the original's, {how}")


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a safetensors file."""

    path: Path
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_places(path: Path) -> dict[str, Place]:
    """Name → place of every tensor, from the file's header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: Place(path, tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def holds(place: Place, tensor: OutgoingTensor) -> bool:
    """Whether exactly the numbers that the tensor was to be written with lie there."""
    if place.shape != tensor.shape or place.end - place.begin != tensor.size:
        return False
    with place.path.open("rb") as file:
        file.seek(place.begin)
        return all(file.read(piece.nbytes) == piece.tobytes() for piece in tensor.pieces())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder."""
    return sorted(folder.glob("model*.safetensors"))


@contextmanager
def lean_memory() -> Iterator[None]:
    """Within the block MLX keeps no freed memory for later arrays."""
    before = mx.set_cache_limit(0)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def verify_quantised(folder: Path, tensors: Sequence[OutgoingTensor], on_progress: Progress) -> Check:
    """How far quantised weights are from the source's: ‖W − Ŵ‖ / ‖W‖ over all of them."""
    settings = read_config(folder)["quantization"]
    stored: dict[str, mx.array] = {}
    for path in weight_files(folder):
        stored.update(mx.load(str(path)))  # type: ignore[arg-type]
    error = norm = 0.0
    count = 0
    for tensor in counted(tensors, "comparing", on_progress):
        layer = tensor.name.removesuffix(".weight")
        if f"{layer}.scales" not in stored:
            continue
        packed, scales, biases = (stored.pop(f"{layer}.{part}") for part in ("weight", "scales", "biases"))
        weight = mx.dequantize(packed, scales, biases, settings["group_size"], settings["bits"])
        values = np.concatenate(list(replace(tensor, save_as=DTYPES["float32"]).pieces()))
        difference = np.asarray(weight.astype(mx.float32)).reshape(-1) - values
        error, norm, count = error + float(difference @ difference), norm + float(values @ values), count + 1
        del packed, scales, biases, weight
    relative = (error / norm) ** 0.5 if norm else 0.0
    return Check(
        "weights", count > 0, f"{count} tensors quantised, {relative:.1%} from the original's (norm)"
    )


def verify_nanochat_tokenizer(folder: Path, vocab_size: int) -> Check:
    """Whether tokenizer.json gives tiktoken's ids and texts, and the vocabulary is the model's."""
    tokenizer = NanochatTokenizer.load(folder)
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    if not tokenizer.vocab_size == fast.get_vocab_size() == vocab_size:
        seen = f"{tokenizer.vocab_size} and {fast.get_vocab_size()} tokens, the model has {vocab_size}"
        return Check("tokenizer", False, seen)

    def encode(text: str) -> list[int]:
        return list(fast.encode(text, add_special_tokens=False).ids)

    return compare_tokenizers(tokenizer.encode, encode, tokenizer.decode)


def compare_tokenizers(
    original: Callable[[str], list[int]],
    converted: Callable[[str], list[int]],
    decode: Callable[[list[int]], str] | None,
) -> Check:
    """Compare ids on TRICKY_TEXTS; `decode`: must give every text back, where the vocabulary is of bytes."""
    for text in TRICKY_TEXTS:
        ids = original(text)
        if ids != converted(text):
            return Check("tokenizer", False, f"other ids for {text!r}: {converted(text)[:8]}, not {ids[:8]}")
        if decode is not None and decode(ids) != text:
            return Check("tokenizer", False, f"{text!r} comes back as {decode(ids)!r}")
    back = " and back" if decode is not None else ""
    return Check("tokenizer", True, f"{len(TRICKY_TEXTS)} tricky texts to the original's ids{back}")


def verify_generation(folder: Path, tokenizer: Tokenizer, bos: Sequence[int], on_progress: Progress) -> Check:
    """Continue a sentence greedily by a few tokens: whether the logits are finite, and what it says."""
    ids = [*bos, *tokenizer.encode(PROMPT)]
    prompt_length = len(ids)
    for done in range(NEW_TOKENS):
        on_progress("generating", done, NEW_TOKENS)
        logits = streamed_logits(folder, ids)  # (V,)
        if not mx.isfinite(logits).all().item():
            return Check("generation", False, f"the logits after {len(ids) - prompt_length} tokens are NaN")
        token: int = mx.argmax(logits).item()  # type: ignore[assignment]
        if token in tokenizer.eos_ids:
            break
        ids.append(token)
    return Check("generation", True, f"“{PROMPT}” → “{tokenizer.decode(ids[prompt_length:])}”")


def streamed_logits(folder: Path, ids: list[int]) -> mx.array:
    """Float32 logits (V,) after the last of `ids`, from weights that are read as they are used.

    Nothing but the graph refers to the weights when it is evaluated, so that each goes when it was used.
    """
    model, _ = load_weights(folder)
    if device.prepare().upcast:  # half precision is 50 times slower on a CPU
        model.set_dtype(mx.float32)
    logits = model(mx.array([ids]))[0, -1].astype(mx.float32)
    del model
    mx.eval(logits)
    return logits


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder that was just written."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config
