"""Parameter names of mlx-lm's models as transformers' models have them.

    as_transformers("qwen3_moe", "model.layers.0.mlp.switch_mlp.up_proj.weight", (4, 48, 32))
    # ("model.layers.0.mlp.experts.0.up_proj.weight", 0), (…experts.1…, 1), (…experts.2…, 2), …

Only families that tests/convert/test_to_hf_with_torch.py compares with transformers are listed: a wrong
name would leave a layer random, and a transposed weight would be silent.
"""

import re
from collections.abc import Iterator

# Families whose names and shapes are the same in both.
SAME_NAMES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3"),
    *("olmo2", "granite", "starcoder2", "stablelm", "cohere", "helium", "glm4"),
)
# Families that keep their experts one by one: the name of each in transformers.
EXPERTS = {
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "olmoe"), (r"(.*\.mlp)\.switch_mlp\.(\w+)\.weight", {})),
    "mixtral": (
        r"(.*\.block_sparse_moe)\.switch_mlp\.(\w+)\.weight",
        {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
    ),
}
FAMILIES = (*SAME_NAMES, *EXPERTS)


def as_transformers(model_type: str, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, int | None]]:
    """The names in transformers of one of mlx-lm's parameters, each with its index along the first axis.

    The index is None for a whole parameter. `model_type` is one of FAMILIES.
    """
    pattern, projections = EXPERTS.get(model_type, ("", {}))
    match = re.fullmatch(pattern, name) if pattern else None
    if match is None:
        yield name, None
        return
    projection = projections.get(match[2], match[2])
    for expert in range(shape[0]):
        yield f"{match[1]}.experts.{expert}.{projection}.weight", expert
