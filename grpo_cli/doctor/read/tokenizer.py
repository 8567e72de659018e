"""A model's tokenizer, loaded as training loads it, and facts about its tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.models.model_files import config_of
from grpo_cli.untrusted_json import DamagedFile, read_object

if TYPE_CHECKING:
    from grpo_cli.models.tokenizer import Tokenizer

# Up to these limits rows without a token are padding: Qwen2.5 has 399 of 152,064, phi-2 905 of 51,200,
# DeepSeek-V2 2,398 of 102,400.
PADDING_ROWS, PADDING_SHARE = 1024, 0.05


def load(folder: Path) -> "Tokenizer":
    """The tokenizer of a folder with full weights, loaded as training loads it.

    Raises ModelError if it does not load.
    """
    from grpo_cli import device

    device.prepare()
    from grpo_cli.models.load import load_tokenizer

    return load_tokenizer(folder, config_of(folder) | end_tokens_of(folder))


def end_tokens_of(folder: Path) -> dict[str, Any]:
    """The `eos_token_id` of generation_config.json, which stands above config.json's; empty without one."""
    try:
        ends = read_object(folder / "generation_config.json").get("eos_token_id")
    except (OSError, DamagedFile):
        return {}
    return {"eos_token_id": ends} if ends else {}


def is_nanochat(tokenizer: "Tokenizer") -> bool:
    """True for nanochat's own tokenizer, which has its own chat format."""
    from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer

    return isinstance(tokenizer, NanochatTokenizer)


def too_few(tokens: int, rows: int | None) -> bool:
    """True if the model has more spare rows than padding explains: the tokenizer is another model's."""
    return rows is not None and rows - tokens > max(PADDING_ROWS, PADDING_SHARE * rows)


def there_and_back(tokenizer: "Tokenizer", text: str) -> str:
    """A text encoded to ids and decoded again."""
    ids = tokenizer.encode(text)
    return tokenizer.decode(ids) if ids else ""


def letters(text: str, special: list[str]) -> str:
    """The visible ASCII characters of a text, without spellings of special tokens."""
    import unicodedata

    for spelling in special:
        text = text.replace(spelling, "")
    text = unicodedata.normalize("NFKC", text)  # as many tokenizers do; it changes some letters
    return "".join(character for character in text if "!" <= character <= "~")


def where_it_differs(text: str, back: str) -> str:
    """The first difference between a text and its round trip, in words."""
    pairs = enumerate(zip(text, back, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(text), len(back)))
    return f"{text[at : at + 20]!r} comes back as {back[at : at + 20]!r} (character {at} of {text[:20]!r}…)"


def special_spellings(tokenizer: "Tokenizer") -> list[str]:
    """Spellings in text that the tokenizer turns into special tokens, longest first."""
    if is_nanochat(tokenizer):
        return []  # a spelling stays text
    return sorted(added_tokens(tokenizer), key=len, reverse=True)


def added_tokens(tokenizer: "Tokenizer") -> dict[str, int]:
    """Ids of special and reserved tokens, which are added to the ordinary vocabulary, by token."""
    wrapped: Any = getattr(tokenizer, "wrapped", None)
    if wrapped is None:
        encoding: Any = getattr(tokenizer, "encoding", None)
        return dict(encoding._special_tokens) if encoding is not None else {}
    inner = wrapped._tokenizer
    named = dict(zip(inner.all_special_tokens, inner.all_special_ids, strict=True))
    return {str(token): int(number) for token, number in {**inner.get_added_vocab(), **named}.items()}


def reserved_ids(tokenizer: "Tokenizer") -> frozenset[int]:
    """Ids that ordinary text never becomes."""
    return frozenset(added_tokens(tokenizer).values())
