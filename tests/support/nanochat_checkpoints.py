"""Small nanochat checkpoints of each version, with random numbers and the genuine small tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from grpo_cli.convert.dtypes import DTYPES
from grpo_cli.convert.name_map import Shapes
from grpo_cli.convert.outgoing import OutgoingTensor
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.convert.torch_writer import write_torch_file

FIXTURES = Path(__file__).parents[1] / "fixtures/nanochat"
GENUINE = Path(__file__).parents[2] / "../shared/fixtures/nanochat"
TOKENS = 1000  # of the fixtures' tokenizer
SMALL = {"sequence_len": 64, "vocab_size": TOKENS, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
LAMBDAS = {"resid_lambdas": (3,), "x0_lambdas": (3,)}  # since January 2026, one for each layer


def model_config(version: str) -> dict[str, Any]:
    """model_config of a meta file."""
    return SMALL if version == "october" else {**SMALL, "window_pattern": "SSL"}


def shapes_of(version: str, rows: int = TOKENS) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that a version of nanochat writes; rows: of the embeddings.

    By hand for SMALL, from what nanochat's files hold: 32 channels, 2 of 4 heads of 8 for keys and values.
    """
    shapes = {"transformer.wte.weight": (rows, 32)}
    for layer in ("transformer.h.0", "transformer.h.1", "transformer.h.2"):
        shapes |= {
            f"{layer}.attn.c_q.weight": (32, 32),
            f"{layer}.attn.c_k.weight": (16, 32),
            f"{layer}.attn.c_v.weight": (16, 32),
            f"{layer}.attn.c_proj.weight": (32, 32),
            f"{layer}.mlp.c_fc.weight": (128, 32),
            f"{layer}.mlp.c_proj.weight": (32, 128),
        }
    shapes["lm_head.weight"] = (rows, 32)
    return shapes | {"october": {}, "january": LAMBDAS, "current": {**LAMBDAS, **since_march(rows)}}[version]


def since_march(rows: int) -> dict[str, tuple[int, ...]]:
    """What the current nanochat added: smearing, and value embeddings in every other layer up to the last."""
    return {
        "smear_gate.weight": (1, 24),
        "smear_lambda": (1,),
        "backout_lambda": (1,),
        "transformer.h.0.attn.ve_gate.weight": (2, 12),
        "transformer.h.2.attn.ve_gate.weight": (2, 12),
        "value_embeds.0.weight": (rows, 16),
        "value_embeds.2.weight": (rows, 16),
    }


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
        return OutgoingTensor(
            name=prefix + name,
            dtype=DTYPES["float32"],
            shape=shape,
            read=lambda: values,
            save_as=DTYPES[stored],
        )

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
