"""Checks of a model's chat format: special tokens, end tokens and the chat template."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo_cli.doctor.checks.model.tokenizer import NOT_LOADED, loaded
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.model_folder import fetch_again, present, rows_of, template_files
from grpo_cli.doctor.read.tokenizer import added_tokens, is_nanochat, reserved_ids, too_few
from grpo_cli.errors import GrpoError
from grpo_cli.models.model_files import BREAKDOWNS
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.models.tokenizer import Tokenizer

SHOWN = 3  # examples in a line
SAID = "4 indeed"
MARKERS = re.compile(r"<\|\w+\|>")
ASK = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "What is 2 + 2?"}]


def special_tokens(context: Context) -> Iterator[Finding]:
    """Each special token exists and has one id of its own."""
    tokenizer = loaded(context)
    if tokenizer is None:
        yield skipped(NOT_LOADED)
        return
    tokens, rows = added_tokens(tokenizer), rows_of(context.base_folder)
    wrong = list(special_faults(tokenizer, tokens, rows))
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        cure = "the tokenizer's files come from different models: download them again together"
        files = "tokenizer.pkl" if is_nanochat(tokenizer) else ("tokenizer.json", "tokenizer_config.json")
        commands = fetch_again(context.base_folder, files, context.model)
        yield error("; ".join(wrong[:SHOWN]) + more, cure, *commands, wrong=wrong)
        return
    shown = ", ".join(f"{token} {number}" for token, number in list(tokens.items())[:SHOWN])
    wrapped: Any = getattr(tokenizer, "wrapped", None)
    is_guarded = wrapped is None or wrapped.has_chat_template
    stay = "; typed by a user they stay text" if is_guarded else ""
    yield ok(
        f"{len(tokens)} tokens, one id each ({shown}{', …' if len(tokens) > SHOWN else ''}){stay}",
        tokens=tokens,
    )


def special_faults(tokenizer: "Tokenizer", tokens: dict[str, int], rows: int | None) -> Iterator[str]:
    """Faults of special tokens, one text each. `rows`: of the model's embedding; None: unknown."""
    owners: dict[int, str] = {}
    for token, number in tokens.items():
        if number in owners:
            yield f"{owners[number]} and {token} have the same id {number}"
        owners[number] = token
        if rows is not None and not 0 <= number < rows:
            yield f"{token} has the id {number}, the model only {rows} rows"
        ids = tokenizer.encode(token)
        if is_nanochat(tokenizer):
            if number in ids:
                yield f"{token} typed by a user becomes the special token"
        elif ids != [number]:
            yield f"{token} becomes {plural(len(ids), 'id')}, not the one {number}"
    for marker in sorted(set(MARKERS.findall(conversation(tokenizer, SAID) or ""))):
        if len(ids := tokenizer.encode(marker)) != 1:
            yield f"{marker}, which the chat template writes, becomes {len(ids)} ids"


def conversation(tokenizer: "Tokenizer", said: str) -> str | None:
    """A question and the answer `said` as the chat template writes them; None if it fails or is missing."""
    wrapped: Any = getattr(tokenizer, "wrapped", None)
    if wrapped is None or not wrapped.has_chat_template:
        return None
    from jinja2 import TemplateError

    try:
        messages = [ASK[1], {"role": "assistant", "content": said}]
        return str(wrapped.apply_chat_template(messages, tokenize=False))
    except (TemplateError, *BREAKDOWNS):  # the check chat-template reports a template that fails
        return None


def end_tokens(context: Context) -> Iterator[Finding]:
    """Completions can end: the end tokens are known."""
    tokenizer = loaded(context)
    if tokenizer is None:
        yield skipped(NOT_LOADED)
        return
    folder = context.base_folder
    rows = rows_of(folder)
    if too_few(tokenizer.vocab_size, rows):  # its ids mean nothing to the model, so changing them is no cure
        yield skipped("the tokenizer belongs to another model: see vocabulary")
        return
    ends = sorted(end for end in tokenizer.eos_ids if isinstance(end, int))
    files = present(folder, "config.json", "generation_config.json")
    commands = fetch_again(folder, files, context.model)
    beyond = [end for end in ends if not 0 <= end < tokenizer.vocab_size or (rows and end >= rows)]
    spelled = {number: token for token, number in added_tokens(tokenizer).items()}
    shown = ", ".join(f"{spelled.get(end, '?')} {end}" for end in ends)
    if not ends:
        cure = "add it to config.json: without one every completion runs until `max_new_tokens`"
        yield error("no end token is known", cure, '"eos_token_id": ID')
    elif beyond:
        seen = f"the end token {beyond[0]} is beyond the {tokenizer.vocab_size:,} tokens"
        yield error(seen, "take config.json and generation_config.json from the same model", *commands)
    elif (turn := end_of_turn(tokenizer)) is not None and turn not in ends:
        name = spelled.get(turn, str(turn))
        yield warning(
            f"the chat template ends a turn with {name} ({turn}), but only {shown} ends a completion",
            f"name it in {folder / 'generation_config.json'}, or completions continue into the next turn",
            f'"eos_token_id": {[*ends, turn]}',
            ends=ends,
            turn=turn,
        )
    else:
        yield ok(shown, ends=ends)


def end_of_turn(tokenizer: "Tokenizer") -> int | None:
    """Id of the special token that the chat template writes after an answer; None if it writes none."""
    after = tokenizer.encode((conversation(tokenizer, SAID) or "").rpartition(SAID)[2])
    return next((token for token in after if token in reserved_ids(tokenizer)), None)


def chat_template(context: Context) -> Iterator[Finding]:
    """The chat template turns conversations into prompts."""
    tokenizer = loaded(context)
    if tokenizer is None:
        yield skipped(NOT_LOADED)
        return
    wrapped: Any = getattr(tokenizer, "wrapped", None)
    if wrapped is not None and not wrapped.has_chat_template:
        yield ok("none: a base model; its prompts are the messages' texts as paragraphs", template=False)
        return
    ids, problem = prompt_ids(tokenizer, ASK)
    if ids is None:
        folder = context.base_folder
        cure = "take tokenizer_config.json and chat_template.jinja from the same model"
        yield error(problem, cure, *fetch_again(folder, template_files(folder), context.model))
        return
    if not ids:
        cure = "take the template of the model's instruct version"
        commands = fetch_again(context.base_folder, template_files(context.base_folder), context.model)
        yield error("the chat template turns a conversation into an empty prompt", cure, *commands)
        return
    plain = None if wrapped is None else rendered(tokenizer, generation=False)
    asked = None if wrapped is None else rendered(tokenizer, generation=True)
    if wrapped is not None and asked == plain:
        yield warning(
            "the template does not end where the assistant speaks: it ignores add_generation_prompt",
            "take the template of the model's instruct version",
            *fetch_again(context.base_folder, template_files(context.base_folder), context.model),
        )
        return
    end = "<|assistant_start|>" if wrapped is None else str(asked)[len(str(plain)) :]
    merged = ", the system message as the beginning of the question" if tokenizer.merges_system else ""
    yield ok(
        f"system and user become {plural(len(ids), 'id')}{merged}, ending with {end!r}",
        tokens=len(ids),
        end=end,
        system=not tokenizer.merges_system,
    )


def prompt_ids(tokenizer: "Tokenizer", messages: list[Any]) -> tuple[list[int] | None, str]:
    """The token ids of a conversation, or None with the error text."""
    try:
        return tokenizer.encode_prompt(messages), ""
    except GrpoError as problem:
        return None, problem.message
    except BREAKDOWNS as problem:
        return None, f"The model's chat template fails: {type(problem).__name__}: {str(problem)[:200]}"


def rendered(tokenizer: Any, generation: bool) -> str:
    """ASK as the template writes it; empty if it fails. `generation`: with the opening of an answer."""
    try:
        return str(tokenizer.render(ASK, None, generation))
    except (GrpoError, *BREAKDOWNS):  # without the opening, say: training does not need that
        return ""
