"""A tokenizer of transformers' from a folder's files, which may be a stranger's: none of its code is run.

    wrapped = read_tokenizer(Path("models/SmolLM2"), eos_ids=[2])

The files choose a class and some modules by name. transformers looks a class up among all that it has,
and some of these run a folder's code by themselves, so what is named is compared with the tokenizers first.
"""

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

# transformers asks "run the custom code? [y/N]" where nothing was said; with 0 seconds to answer it refuses.
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
logging.set_verbosity_error()  # it warns of every kind of model that mlx-lm knows and it does not
PROBE = "What is 2 + 2? The answer is 4."
CONFIG = "tokenizer_config.json"
NAMED_MODULES = {"chat_template_type": mlx_lm.chat_templates, "tool_parser_type": mlx_lm.tool_parsers}


def read_tokenizer(folder: Path, eos_ids: list[int] | None, trust_remote_code: bool = False) -> Any:
    """mlx-lm's TokenizerWrapper. Raises ModelError for what names code, and whatever transformers raises.

    `trust_remote_code`: a person has said that this folder's tokenizer may run its own code.
    """
    check_names(folder)

    def load(**more: PreTrainedConfig) -> Any:
        return load_tokenizer(folder, {"trust_remote_code": trust_remote_code, **more}, eos_token_ids=eos_ids)

    try:
        return load()
    except Exception:
        config = general_config(folder)
        if config is None:
            raise
        return load(config=config)


def general_config(folder: Path) -> PreTrainedConfig | None:
    """config.json in transformers' general class, where its own breaks down over it; None where that reads.

    The tokenizer needs nothing of it, and mlx-lm has made the model. Raises ModelError for a config.json that
    no class can read, so that its fault is not taken for the tokenizer's.
    """
    try:
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        return None
    except Exception as error:
        try:
            return PreTrainedConfig.from_pretrained(str(folder), trust_remote_code=False)
        except Exception:
            raise unread_config(folder, error) from error


def unread_config(folder: Path, error: Exception) -> ModelError:
    """The error for a config.json that transformers cannot read, whose tokenizer may be sound."""
    return ModelError(
        f"{folder / 'config.json'} cannot be read: {type(error).__name__}: {str(error)[:200]}",
        "take config.json from where the weights come from",
    )


@contextmanager
def rust_panics() -> Iterator[None]:
    """Raise ValueError for a panic within the block: of a damaged file tokenizers' Rust code makes a
    `PanicException`, which is no Exception and would pass every handler as if a person had interrupted."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizers library broke down: {error}") from error


def try_tokenizer(tokenizer: Any) -> None:
    """Encode and decode a text and a prompt; raises what the library raises, ValueError for no ids.

    A template that refuses this conversation may take another one.
    """
    ids = tokenizer.encode(PROBE)
    if not ids:
        raise ValueError("it makes nothing of a text")
    tokenizer.decode(ids)
    with suppress(ModelError):
        tokenizer.encode_prompt([{"role": "user", "content": PROBE}])


def check_names(folder: Path) -> None:
    """Raise ModelError for a name that is neither a tokenizer of transformers' nor a part of mlx-lm."""
    for name in (CONFIG, "config.json"):
        if not (folder / name).exists():
            continue
        content = read_json(folder / name)
        check_class(content.get("tokenizer_class"), folder)
        for key, package in NAMED_MODULES.items():
            check_listed(content.get(key), _modules(package), key, folder)


def check_class(name: object, folder: Path) -> None:
    """Raise ModelError for a class of transformers' that is no tokenizer; one it does not have never runs."""
    found = tokenizer_class_from_name(name) if isinstance(name, str) else None
    is_tokenizer = isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
    if found is not None and not is_tokenizer:
        check_listed(name, (), "tokenizer_class", folder)


def save_tokenizer(wrapped: Any, folder: Path) -> None:
    """Write the tokenizer's files, without what names code and without the code that transformers adds."""
    before = set(folder.glob("*.py"))
    wrapped.save_pretrained(str(folder))
    for path in set(folder.glob("*.py")) - before:
        path.unlink()
    config = folder / CONFIG
    if config.is_file():
        config.write_bytes(without_code_in(config.read_bytes()))


def _modules(package: ModuleType) -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(package.__path__))
