"""Load a transformers tokenizer from an untrusted folder, without running its code.

    wrapped = read_tokenizer(Path("models/SmolLM2"), eos_ids=[2])

The files choose a class and some modules by name. transformers looks the class up among all of its own,
some of which run a folder's code, so the names are checked against its tokenizers first.
"""

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx_lm.chat_templates
import mlx_lm.tool_parsers
from mlx_lm.utils import load_tokenizer
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase, dynamic_module_utils
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import logging

from grpo_cli.errors import ModelError
from grpo_cli.models.tree import read_json
from grpo_cli.trust import check_listed, without_code_in

# transformers asks "run the custom code? [y/N]" by default; with a timeout of 0 seconds it refuses.
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
logging.set_verbosity_error()  # otherwise it warns of every model type that only mlx-lm knows
PROBE_TEXT = "What is 2 + 2? The answer is 4."
CONFIG = "tokenizer_config.json"
NAMED_MODULES = {"chat_template_type": mlx_lm.chat_templates, "tool_parser_type": mlx_lm.tool_parsers}


def read_tokenizer(folder: Path, eos_ids: list[int] | None, trust_remote_code: bool = False) -> Any:
    """mlx-lm's TokenizerWrapper. Raises ModelError for names of code, and any error of transformers.

    `trust_remote_code`: the user allows this folder's tokenizer to run its own code.
    """
    check_names(folder)

    def load(**more: PreTrainedConfig) -> Any:
        return load_tokenizer(folder, {"trust_remote_code": trust_remote_code, **more}, eos_token_ids=eos_ids)

    try:
        return load()
    except Exception:  # each of transformers' classes checks its fields in its own way; raised again below
        config = general_config(folder)
        if config is None:
            raise
        return load(config=config)


def general_config(folder: Path) -> PreTrainedConfig | None:
    """config.json in transformers' general class if its specific class fails on it; None if that works.

    The tokenizer does not need the specific class, and mlx-lm has built the model. Raises ModelError for a
    config.json that no class can read, so that the tokenizer is not blamed.
    """
    try:
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        return None
    except Exception as error:  # as above: any class of transformers may be the specific one
        try:
            return PreTrainedConfig.from_pretrained(str(folder), trust_remote_code=False)
        except Exception:  # any reason: the first error, which is raised, names the field
            raise unread_config(folder, error) from error


def unread_config(folder: Path, error: Exception) -> ModelError:
    """The error for a config.json that transformers cannot read, although the tokenizer may be intact."""
    return ModelError(
        f"{folder / 'config.json'} cannot be read: {type(error).__name__}: {str(error)[:200]}",
        "copy config.json from the source of the weights",
    )


class UnusableTokenizer(ModelError):
    """A tokenizer or template that fails on ordinary text; one that refuses a conversation is not."""


class RustPanic(ValueError):
    """A panic of tokenizers' Rust code."""


@contextmanager
def rust_panics() -> Iterator[None]:
    """Turn a panic within the block into RustPanic: for a damaged file, tokenizers' Rust code raises
    `PanicException`, which is not an Exception and would pass every handler like an interruption.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RustPanic(f"the tokenizers library failed: {error}") from error


def try_tokenizer(tokenizer: Any) -> None:
    """Encode and decode a text and a prompt. Raises the library's errors, ValueError if there are no ids.

    A template may refuse this conversation but accept others; one that does not end raises UnusableTokenizer.
    """
    ids = tokenizer.encode(PROBE_TEXT)
    if not ids:
        raise ValueError("it gives no ids for a text")
    try:
        tokenizer.encode_prompt([{"role": "user", "content": PROBE_TEXT}])
    except UnusableTokenizer:
        raise
    except ModelError:
        pass
    tokenizer.decode(ids)


def check_names(folder: Path) -> None:
    """Raise ModelError for a name that is neither a transformers tokenizer nor part of mlx-lm."""
    for name in (CONFIG, "config.json"):
        if not (folder / name).exists():
            continue
        content = read_json(folder / name)
        check_class(content.get("tokenizer_class"), folder)
        for key, package in NAMED_MODULES.items():
            check_listed(content.get(key), _modules(package), key, folder)


def check_class(name: object, folder: Path) -> None:
    """Raise ModelError for a transformers class that is not a tokenizer; unknown classes never run."""
    found = tokenizer_class_from_name(name) if isinstance(name, str) else None
    is_tokenizer = isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
    if found is not None and not is_tokenizer:
        check_listed(name, (), "tokenizer_class", folder)


def save_tokenizer(wrapped: Any, folder: Path) -> None:
    """Write the tokenizer's files without names of code and without the code that transformers adds."""
    before = set(folder.glob("*.py"))
    wrapped.save_pretrained(str(folder))
    for path in set(folder.glob("*.py")) - before:
        path.unlink()
    config = folder / CONFIG
    if config.is_file():
        config.write_bytes(without_code_in(config.read_bytes()))


def _modules(package: ModuleType) -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(package.__path__))
