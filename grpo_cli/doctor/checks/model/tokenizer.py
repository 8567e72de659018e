"""Checks of a model's tokenizer: it loads, it belongs to the model, and texts survive a round trip."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.model_folder import expected_tokens, fetch_again, rows_of
from grpo_cli.doctor.read.tokenizer import (
    is_nanochat,
    letters,
    special_spellings,
    there_and_back,
    too_few,
    where_it_differs,
)
from grpo_cli.errors import GrpoError, ModelError
from grpo_cli.models.model_files import config_of

if TYPE_CHECKING:
    from grpo_cli.models.tokenizer import Tokenizer

NOT_LOADED = "the tokenizer does not load"


def loaded(context: Context) -> "Tokenizer | None":
    """The tokenizer, or None if it does not load: the check `tokenizer` reports the reason."""
    try:
        return context.tokenizer
    except GrpoError:
        return None


def loads(context: Context) -> Iterator[Finding]:
    """The tokenizer loads."""
    if context.model_folder is None:
        yield skipped("the model is not on this machine")
        return
    try:
        tokenizer = context.tokenizer
    except GrpoError as problem:
        yield not_loaded(context, problem)
        return
    kind = "nanochat's tokenizer.pkl, read as data" if is_nanochat(tokenizer) else "tokenizer.json"
    yield ok(f"{kind}: {tokenizer.vocab_size:,} tokens", tokens=tokenizer.vocab_size)


def not_loaded(context: Context, problem: GrpoError) -> Finding:
    """The finding for a tokenizer that does not load, with the command that fetches its file again."""
    try:
        folder = context.base_folder
    except ModelError:  # the base of adapters is gone
        return replace(error(problem.message, problem.hint), name=problem.trouble)
    if not config_of(folder):  # transformers reads it too
        return skipped(f"{NOT_LOADED} without a config.json: see model-files")
    file = "tokenizer.pkl" if (folder / "tokenizer.pkl").exists() else "tokenizer.json"
    cure = f"download only {file} again, from the same model: another tokenizer gives garbled text"
    return error(problem.message, cure, *fetch_again(folder, file, context.model), file=file)


def vocabulary(context: Context) -> Iterator[Finding]:
    """The tokenizer has the model's vocabulary (65536 for nanochat d20 and d32)."""
    tokenizer = loaded(context)
    if tokenizer is None:
        yield skipped(NOT_LOADED)
        return
    folder, tokens = context.base_folder, tokenizer.vocab_size
    config = config_of(folder)
    if not isinstance(config.get("model_type"), str):
        yield skipped(f"{tokens:,} tokens; config.json cannot be used: see model-files")
        return
    rows, known, told = rows_of(folder), expected_tokens(folder), config.get("vocab_size")
    numbers = {"tokens": tokens, "rows": rows}
    file = "tokenizer.pkl" if is_nanochat(tokenizer) else "tokenizer.json"
    again = fetch_again(folder, file, context.model)
    cure = f"take {file} from the same model: with another one the model's text is garbled"
    if known and tokens != known[1]:
        yield error(f"{tokens:,} tokens; {known[0]} has {known[1]:,}", cure, *again, **numbers)
    elif rows is None:
        yield skipped(f"{tokens:,} tokens; the model does not say how many it has")
    elif tokenizer.needed_size > rows:
        yield error(f"{tokens:,} tokens, the model only {rows:,} rows", cure, *again, **numbers)
    elif is_nanochat(tokenizer) and isinstance(told, int) and tokens != told:
        yield error(f"{tokens:,} tokens, the model {told}", cure, *again, **numbers)
    elif too_few(tokens, rows):
        yield warning(f"{tokens:,} tokens, but the model has {rows:,} rows", cure, *again, **numbers)
    else:
        spare = f" ({rows - tokens} rows to spare)" if rows > tokens else ""
        spare = spare or (f" (the last {tokens - rows} are never used)" if tokens > rows else "")
        yield ok(f"{tokens:,} tokens, {rows:,} rows of the model{spare}", **numbers)


def round_trip(context: Context) -> Iterator[Finding]:
    """Tricky texts survive encoding and decoding."""
    tokenizer = loaded(context)
    if tokenizer is None:
        yield skipped(NOT_LOADED)
        return
    from grpo_cli.convert.tricky import TRICKY_TEXTS

    changed = {text: back for text in TRICKY_TEXTS if (back := there_and_back(tokenizer, text)) != text}
    special = special_spellings(tokenizer)
    lost = {text: back for text, back in changed.items() if letters(text, special) != letters(back, special)}
    numbers = {"texts": len(TRICKY_TEXTS), "changed": len(changed), "lost": len(lost)}
    if not changed:
        yield ok(f"{len(TRICKY_TEXTS)} tricky texts come back unchanged", **numbers)
    elif not lost:
        how = "normalized: white space, accents or special tokens' spellings"
        same = len(TRICKY_TEXTS) - len(changed)
        yield ok(f"{same} of {len(TRICKY_TEXTS)} tricky texts come back unchanged, the rest {how}", **numbers)
    else:
        text, back = next(iter(lost.items()))
        seen = f"{len(lost)} of {len(TRICKY_TEXTS)} texts lose plain letters; {where_it_differs(text, back)}"
        folder = context.base_folder
        file = "tokenizer.pkl" if is_nanochat(tokenizer) else "tokenizer.json"
        cure = f"a damaged {file}, or a vocabulary of few letters: then rewards never see the others"
        yield warning(seen, cure, *fetch_again(folder, file, context.model), **numbers)
