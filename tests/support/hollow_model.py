"""A model whose weights are holes in a file: its headers are real, and it takes no room."""

import json
import struct
from math import prod
from pathlib import Path


def hollow_model(layers: int = 2, hidden: int = 1024, dtype: str = "BF16", folder: str = "m") -> Path:
    """A model whose weights are zeros: 8 M numbers in its matrices."""
    Path(folder).mkdir(exist_ok=True)
    facts = {"num_attention_heads": 8, "hidden_size": hidden, "num_hidden_layers": layers,
             "intermediate_size": 4 * hidden, "vocab_size": 1000,
             "max_position_embeddings": 4096}  # fmt: skip
    shapes = {f"model.layers.{n}.mlp.up.weight": [4 * hidden, hidden] for n in range(layers)}
    shapes |= {f"model.layers.{n}.norm.weight": [hidden] for n in range(layers)}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    content = json.dumps({"__metadata__": {"format": "mlx"}, **header}).encode()
    with Path(folder, "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)  # a file with holes: it takes no room
    Path(folder, "config.json").write_text(json.dumps(facts))
    return Path(folder)
