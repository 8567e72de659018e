"""Verify a converted model from its written files.

Each function makes one check and reports the result:

    verify_numbers(folder, on_progress)      # CheckResult("finite", True, "1,879,048,192 numbers …")

Weights are compared in compare.py. Memory holds about one tensor, even during generation: each layer's
weights are read when the layer is computed and released after it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import Tokenizer as FastTokenizer

from grpo_cli import device
from grpo_cli.convert.compare import is_finite
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, OnCheck, Progress
from grpo_cli.convert.tricky import TRICKY_TEXTS
from grpo_cli.models.classes import LOAD_ERRORS, load_weights
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.models.tree import flat
from grpo_cli.words import plural

PROMPT = "The capital of France is"
NEW_TOKENS = 8


def approve(checks: Iterator[CheckResult], on_check: OnCheck) -> None:
    """Run every check. Raises ConversionError at the first that fails."""
    with lean_memory():
        for check in checks:
            on_check(check)
            if not check.passed:
                raise ConversionError(
                    f"the result failed a check ({check.name}: {check.seen})",
                    "nothing was kept; run it again: if it fails again, the source is damaged or its "
                    "format is not known: `--no-verify` keeps the result for inspection",
                )


@contextmanager
def lean_memory() -> Iterator[None]:
    """Within the block MLX keeps no freed memory for later arrays."""
    before = mx.set_cache_limit(0)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def verify_load(folder: Path) -> CheckResult:
    """The model loads strictly: every name and shape that config.json requires, and no other."""
    try:
        model, config = load_weights(folder)
    except LOAD_ERRORS as error:
        return CheckResult("strict load", False, str(error))
    count = len(flat(model.parameters()))
    return CheckResult("strict load", True, f"{count} tensors, names and shapes match {config['model_type']}")


def verify_numbers(folder: Path, on_progress: Progress) -> CheckResult:
    """Every number is finite."""
    files = sorted(folder.glob("model*.safetensors"))
    total = sum(path.stat().st_size for path in files)
    done = count = 0
    broken = []
    for path in files:
        arrays: Any = mx.load(str(path))
        for name in sorted(arrays):
            on_progress("checking", done, total)
            array = arrays.pop(name)  # read now, and released before the next one
            if mx.issubdtype(array.dtype, mx.floating):
                count += array.size
                if not is_finite(array):
                    broken.append(name)
            done += array.nbytes
            del array
    if broken:
        return CheckResult("finite", False, f"NaN or infinite numbers in {', '.join(broken[:3])}")
    return CheckResult("finite", True, f"{count:,} numbers, none NaN or infinite")


def verify_nanochat_tokenizer(folder: Path, vocab_size: int) -> CheckResult:
    """tokenizer.json gives tiktoken's ids and texts, and the vocabulary fits the model."""
    tokenizer = NanochatTokenizer.load(folder)
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    if not tokenizer.vocab_size == fast.get_vocab_size() == vocab_size:
        seen = f"{tokenizer.vocab_size} and {fast.get_vocab_size()} tokens, the model has {vocab_size}"
        return CheckResult("tokenizer", False, seen)

    def encode(text: str) -> list[int]:
        return list(fast.encode(text, add_special_tokens=False).ids)

    return compare_tokenizers(tokenizer.encode, encode, tokenizer.decode)


def compare_tokenizers(
    original: Callable[[str], list[int]],
    converted: Callable[[str], list[int]],
    decode: Callable[[list[int]], str] | None,
) -> CheckResult:
    """Compare ids on TRICKY_TEXTS; `decode`, for byte-level vocabularies, must restore every text."""
    for text in TRICKY_TEXTS:
        ids = original(text)
        if ids != converted(text):
            return CheckResult(
                "tokenizer", False, f"different ids for {text!r}: {difference(converted(text), ids)}"
            )
        if decode is not None and decode(ids) != text:
            return CheckResult("tokenizer", False, f"{text!r} comes back as {decode(ids)!r}")
    back = " and back" if decode is not None else ""
    return CheckResult("tokenizer", True, f"{len(TRICKY_TEXTS)} tricky texts to the original's ids{back}")


def difference(found: list[int], expected: list[int]) -> str:
    """The first difference between two lists of ids."""
    pairs = enumerate(zip(found, expected, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(found), len(expected)))
    return f"{found[at : at + 8]}, not {expected[at : at + 8]}"


def verify_generation(
    folder: Path, tokenizer: Tokenizer, bos: Sequence[int], on_progress: Progress
) -> CheckResult:
    """Continue a sentence greedily by a few tokens; the logits must be finite."""
    ids = [*bos, *tokenizer.encode(PROMPT)]
    prompt_length = len(ids)
    if not ids:
        return CheckResult("generation", False, f"the tokenizer gives no ids for “{PROMPT}”")
    for done in range(NEW_TOKENS):
        on_progress("generating", done, NEW_TOKENS)
        logits = streamed_logits(folder, ids)  # (V,)
        if not mx.isfinite(logits).all().item():
            return CheckResult(
                "generation", False, f"the logits after {plural(len(ids) - prompt_length, 'token')} are NaN"
            )
        token: int = mx.argmax(logits).item()  # type: ignore[assignment]
        if token in tokenizer.eos_ids:
            break
        ids.append(token)
    said = tokenizer.decode(ids[prompt_length:]) or "the end, at once"
    return CheckResult("generation", True, f"“{PROMPT}” → “{said}”")


def streamed_logits(folder: Path, ids: list[int]) -> mx.array:
    """Float32 logits (V,) after the last of `ids`, with weights read as they are used.

    Only the graph refers to the weights during evaluation, so that each is released after its use.
    """
    model, _ = load_weights(folder)
    if device.prepare().upcast:  # half precision is 50 times slower on a CPU
        model.set_dtype(mx.float32)
    logits = model(mx.array([ids]))[0, -1].astype(mx.float32)
    del model
    mx.eval(logits)
    return logits
