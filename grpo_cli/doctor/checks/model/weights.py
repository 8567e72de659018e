"""Checks of a model's weights: they match config.json, and none is NaN or infinite."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.doctor.checks.model.model import readable
from grpo_cli.doctor.checks.model.tokenizer import loaded
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.model_folder import EMBEDDINGS, fetch_again
from grpo_cli.doctor.read.tokenizer import reserved_ids
from grpo_cli.errors import GrpoError
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapter_config import adapters_file
from grpo_cli.models.model_files import SHOWN, config_of, some, tensors_in, weight_files
from grpo_cli.models.safetensors_header import Tensor

if TYPE_CHECKING:
    import mlx.core as mx

NO_WEIGHTS = "the folder holds no weights"


def weights(context: Context) -> Iterator[Finding]:
    """Names and shapes of the weights match config.json."""
    folder = context.base_folder
    if unread := list(readable(context, weight_files(folder))):
        yield skipped(f"{unread[0].seen}: see model-files")
        return
    if not weight_files(folder) or not isinstance(config_of(folder).get("model_type"), str):
        lacking = "config.json cannot be used" if weight_files(folder) else NO_WEIGHTS
        yield skipped(f"{lacking}: see model-files")
        return
    config, tensors = config_of(folder), tensors_in(folder)
    try:
        arrays = strictly_loaded(context, folder)
    except GrpoError as problem:
        is_unknown = problem.trouble == "mlx-lm"  # mlx-lm has no class for it here: the files may be right
        yield error(short(problem), problem.hint) if is_unknown else misfit(context, short(problem))
        return
    count = sum(tensor.size for tensor in tensors.values())
    seen = f"{len(arrays)} tensors, {count:,} numbers in {', '.join(dtypes(tensors))}"
    seen += f": names and shapes match {config.get('model_type')}"
    yield ok(seen, tensors=len(arrays), stored_numbers=count)


def strictly_loaded(context: Context, folder: Path) -> "dict[str, mx.array]":
    """The model's lazy parameters by name, adapters included. Raises ModelError on a mismatch."""
    from grpo_cli import device

    device.prepare()
    from grpo_cli.models.adapters import load_adapters
    from grpo_cli.models.load import load_model_folder
    from grpo_cli.models.tree import flat

    model, _ = load_model_folder(folder)
    if context.model_folder is not None and context.model_folder != folder:
        load_adapters(model, context.model_folder)
    return flat(model.parameters())


def misfit(context: Context, problem: str) -> Finding:
    """The error for weights and config.json of different models."""
    folder = context.model_folder or Path()
    return error(
        problem,
        "weights and config.json must come from the same model: download both again; nothing is loaded "
        "partially",
        *fetch_again(folder, ("config.json", *(path.name for path in weight_files(folder))), context.model),
    )


def short(problem: BaseException) -> str:
    """An error's text cut to its first lines: it may list thousands of tensors."""
    text = problem.message if isinstance(problem, GrpoError) else f"{type(problem).__name__}: {problem}"
    lines = [line for line in text.splitlines() if line.strip()]
    more = f" … and {len(lines) - SHOWN - 1} more" if len(lines) > SHOWN + 1 else ""
    return " ".join(line.strip()[:200] for line in lines[: SHOWN + 1]) + more


def values(context: Context) -> Iterator[Finding]:
    """No weight is NaN or infinite, and no token's row is all zeros."""
    folder = context.base_folder
    paths = weight_files(folder)
    if context.model_folder is not None and context.model_folder != folder:
        paths = [*paths, adapters_file(context.model_folder)]
    if unread := list(readable(context, paths)):
        yield skipped(f"{unread[0].seen}: see model-files")
        return
    if not weight_files(folder):
        yield skipped(f"{NO_WEIGHTS}: see model-files")
        return
    seen = Survey(text_ids(context))
    for path in paths:
        seen.add(path)
    if seen.broken:
        yield error(
            f"NaN or infinite numbers in {some(seen.broken)}",
            "all of the model's output is wrong: use an earlier checkpoint, or download the weights again",
            *fetch_again(seen.broken_in[0].parent, [path.name for path in seen.broken_in], context.model),
            broken=seen.broken,
        )
    yield from zero_rows(context, seen)
    if not seen.broken and not seen.zero_tokens:
        padding = f"; {seen.zero_padding} zero rows that no text uses" if seen.zero_padding else ""
        yield ok(f"{seen.count:,} numbers, none NaN or infinite{padding}", numbers=seen.count)


def text_ids(context: Context) -> frozenset[int] | None:
    """Token ids that text can become; None if the tokenizer does not load."""
    tokenizer = loaded(context)
    return frozenset(range(tokenizer.vocab_size)) - reserved_ids(tokenizer) if tokenizer else None


def zero_rows(context: Context, seen: "Survey") -> Iterator[Finding]:
    """A warning for each embedding table in which tokens of text have rows of zeros."""
    for name, rows in seen.zero_tokens.items():
        shown = ", ".join(str(row) for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
        yield warning(
            f"{name}: {len(rows):,} token ids have a row of zeros ({shown})",
            "the model cannot tell these tokens apart: check whether the conversion lost them",
            f"grpo doctor --model {quoted(context.model_folder)} --only garbled-output",
            table=name,
            rows=len(rows),
        )


class Survey:
    """Survey of the numbers in safetensors files: NaN, infinity and zero rows. Holds one tensor at a time."""

    def __init__(self, text_ids: frozenset[int] | None) -> None:
        self.text_ids = text_ids  # rows of other ids are padding or reserved; None: unknown
        self.count = 0
        self.broken: list[str] = []
        self.broken_in: list[Path] = []  # files
        self.zero_tokens: dict[str, list[int]] = {}
        self.zero_padding = 0

    def add(self, path: Path) -> None:
        """Survey every floating-point tensor of a safetensors file."""
        import mlx.core as mx

        from grpo_cli.convert.compare import is_finite

        arrays: Any = mx.load(str(path))
        for name in sorted(arrays):
            array = arrays.pop(name)  # read here, and freed before the next one
            if not mx.issubdtype(array.dtype, mx.floating):
                continue
            self.count += array.size
            if not is_finite(array):
                self.broken.append(name)
                self.broken_in += [path] if path not in self.broken_in else []
            elif name.endswith(EMBEDDINGS) and array.ndim == 2:
                self.add_zero_rows(name, array)

    def add_zero_rows(self, name: str, array: "mx.array") -> None:
        """Record the zero rows of an array (V, D): those of tokens of text, and the number of the others."""
        import mlx.core as mx

        empty: Any = (mx.abs(array).max(axis=1) == 0).tolist()
        rows = [row for row, is_empty in enumerate(empty) if is_empty]
        of_tokens = [row for row in rows if self.text_ids is None or row in self.text_ids]
        self.zero_padding += len(rows) - len(of_tokens)
        if of_tokens:
            self.zero_tokens[name] = of_tokens


def dtypes(tensors: dict[str, Tensor]) -> list[str]:
    """The distinct dtypes of some tensors, sorted."""
    return sorted({tensor.dtype for tensor in tensors.values()})
