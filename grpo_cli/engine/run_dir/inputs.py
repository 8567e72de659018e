"""Checksums of the inputs that determine a run's rewards and scores, stored in its state.

    inputs = checksums(config, train_examples, eval_prompts, folders)  # {"reward file math.py": "3f9a…", …}
    changed(state.inputs, inputs)                                 # ["reward file math.py"]

If these inputs change when a run is resumed, its numbers before and after cannot be compared.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from grpo_cli.config.schema import Config
from grpo_cli.engine.ranks.same_setup import reward_files
from grpo_cli.engine.rollout.prompts import Prompt
from grpo_cli.engine.run_dir.manifest import sha256 as sha256_of_file
from grpo_cli.models.model_files import weight_files
from grpo_cli.types import Example

EVALUATION = "evaluation examples"
BLOCKS, BLOCK_BYTES = 16, 1 << 16  # blocks hashed per weights file: any training changes all of them


def checksums(
    config: Config,
    train: Sequence[Example],
    held_out: Sequence[Prompt],
    weights: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, str]:
    """A checksum for each input by name. Rewards must be loaded, so that the modules they import are known.

    `weights`: folders of frozen weights by name: of LoRA's base model or the reference, and of the judge.
    """
    found = {f"reward file {path.name}": sha256_of_file(path) for path in sorted(code_of_rewards(config))}
    found["training examples"] = _digest([example.answer, example.columns] for example in train)
    if held_out:
        found[EVALUATION] = _digest(
            [prompt.ids, prompt.example.answer, prompt.example.columns] for prompt in held_out
        )
    for name, folder in weights.items():
        found[name] = _digest([path.name, _digest_of_blocks(path)] for path in weight_files(folder))
    return found


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Names of the inputs whose checksums differ. Names in only one of the two are ignored."""
    return [name for name in before if name in now and before[name] != now[name]]


def is_measure(key: str) -> bool:
    """True for keys that determine rewards or scores, so that an edit of them needs --accept-changes."""
    return (
        key in ("reward_functions", "reward_weights", "tools", "environment")
        or key.startswith("judge")
        or (key.startswith("eval_") and key != "eval_steps")
    )


def code_of_rewards(config: Config) -> set[Path]:
    """The files of rewards, and the imported modules in the same folders or their subfolders."""
    files = {path.resolve() for path in reward_files(config)}
    if not files:
        return files
    identity = functools.cache(_identity)  # thousands of modules share a few hundred folders
    folders = {identity(path.parent) for path in files} - {None}
    others = [module for name, module in list(sys.modules.items()) if not name.startswith("grpo_cli")]
    names = [getattr(module, "__file__", None) for module in others]
    paths = [path for name in names if name and (path := Path(name)).suffix == ".py"]
    real = [path.resolve() if path.is_symlink() else path for path in paths]
    beside = [path for path in real if folders & {identity(path.parent), identity(path.parent.parent)}]
    return files | {path.resolve() for path in beside}


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode number of a folder, the same for all links to it; None if it does not exist."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _digest(rows: Iterator[list[object]]) -> str:
    digest = sha256()
    encode = json.JSONEncoder(sort_keys=True, default=repr).encode  # json.dumps would make one per row
    for row in rows:
        digest.update(encode(row).encode())
    return digest.hexdigest()


def _digest_of_blocks(path: Path) -> str:
    """A checksum of a file's size and of blocks spread over it, without reading all of its gigabytes."""
    size = path.stat().st_size
    digest = sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(max(0, size - BLOCK_BYTES) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def fingerprint(examples: list[Example]) -> str:
    """A checksum of all prompts and answers in order; needs no encoding of the prompts."""
    digest = hashlib.sha256()
    encode = json.JSONEncoder(default=repr).encode  # json.dumps would make one per example
    for example in examples:
        digest.update(encode([example.messages, example.answer]).encode())
    return digest.hexdigest()
