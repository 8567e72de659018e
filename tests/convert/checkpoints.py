"""Small nanochat checkpoints of each version, with random numbers and the genuine small tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from grpo_cli.convert.architecture import ModelConfig, _current, _january, _october, model_shapes
from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.name_map import Shapes
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.convert.torch_writer import write_torch_file

FIXTURES = Path(__file__).parents[1] / "fixtures/nanochat"
GENUINE = Path(__file__).parents[2] / "../shared/fixtures/nanochat"
TOKENS = 1000  # of the fixtures' tokenizer
SMALL = {"sequence_len": 64, "vocab_size": TOKENS, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32}


def model_config(version: str) -> dict[str, Any]:
    """model_config of a meta file."""
    return SMALL if version == "october" else {**SMALL, "window_pattern": "SSL"}


def shapes_of(version: str, rows: int = TOKENS) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that a version of nanochat writes; rows: of the embeddings."""
    config = ModelConfig.model_validate(model_config(version))
    fields = {
        "october": lambda: _october(config),
        "january": lambda: _january(config, rows),
        "current": lambda: _current(config, rows),
    }[version]()
    padded = ("transformer.wte.weight", "lm_head.weight")
    return {n: (rows, *s[1:]) if n in padded else s for n, s in model_shapes(fields).items()}


def write_checkpoint(
    folder: Path,
    version: str = "october",
    step: int = 650,
    rows: int = TOKENS,
    prefix: str = "",
    shapes: Shapes | None = None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """A folder with model_<step>.pt, meta_<step>.json and tokenizer.pkl; embeddings in bfloat16."""
    folder.mkdir(exist_ok=True)
    numbers = np.random.default_rng(step)

    def tensor(name: str, shape: tuple[int, ...]) -> OutgoingTensor:
        values = numbers.normal(0, 0.3, shape).astype("<f4")
        stored = "bfloat16" if "wte" in name or "value_embeds" in name else "float32"
        return OutgoingTensor(prefix + name, DTYPES["float32"], shape, lambda: values, DTYPES[stored])

    wanted = shapes_of(version, rows) if shapes is None else shapes
    write_torch_file(folder / f"model_{step:06d}.pt", [tensor(*item) for item in wanted.items()])
    content = {"step": step, "model_config": model_config(version)} if meta is None else meta
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(content))
    shutil.copyfile(FIXTURES / "tokenizer.pkl", folder / "tokenizer.pkl")
    return folder


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Format, shape and bytes of every tensor of a .pt file."""
    with TorchFile(path) as file:
        return {
            name: (info.dtype.name, info.shape, file.read(name).tobytes())
            for name, info in file.tensors.items()
        }
