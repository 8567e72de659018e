"""Sizes of the blocks of attention.py, and the models that it serves: arithmetic only, without MLX."""

from collections.abc import Mapping
from typing import Any

SCORES = 1 << 19  # numbers of a block of scores, which stay in the processor's cache
FEWEST = 16  # queries of a block
COPIES = 5.0  # arrays of a block's size that exist at once
# Kinds whose attention has no blocks: scores that the model computes itself, attention sinks, and states that
# are estimated as attention.
WHOLE = {"deepseek_v41", "gemma2", "gpt_oss", "mimo_v2_flash", "mamba", "falcon_mamba", "rwkv7"}


def scores_at_once(rows: int, heads: int, keys: int) -> int:
    """Numbers of the largest block of scores: (B, H, l, T) of the fewest queries l or more."""
    return max(SCORES, FEWEST * rows * heads * keys)


def is_blockwise(config: Mapping[str, Any]) -> bool:
    """True if attention.py serves all attention of a model on a CPU, by its config.json.

    False for latent attention (`kv_lora_rank`), which has blocks in some kinds only.
    """
    return config.get("model_type") not in WHOLE and not config.get("kv_lora_rank")
