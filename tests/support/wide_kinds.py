"""Random models with states, wide enough for their memory to be measured.

write_wide("qwen3_5", folder / "model")     # 13 MB of weights
"""

from pathlib import Path
from typing import Any

from tests.support.kind_trials import make
from tests.support.llama import write_model
from tests.support.model_kinds import config_of

SIZES: dict[str, Any] = {
    "vocab_size": 320, "eos_token_id": 311, "torch_dtype": "float32", "hidden_size": 256,
    "intermediate_size": 512, "num_attention_heads": 8, "head_dim": 32,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 64}
WIDE: dict[str, dict[str, Any]] = {
    "qwen3_5": {
        **SIZES,
        **{"linear_num_value_heads": 8, "linear_num_key_heads": 4},
        **{"linear_key_head_dim": 64, "linear_value_head_dim": 64},
    },
    "mamba2": {**SIZES, "num_heads": 8, "head_dim": 64, "state_size": 64},
    "granitemoehybrid, dense": {**SIZES, **MAMBA, "shared_intermediate_size": 512},
    "nemotron_h": {**SIZES, "mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 64},
    "falcon_h1": {**SIZES, **MAMBA, "mamba_d_ssm": 512},
}


def write_wide(kind: str, folder: Path) -> Path:
    """Write a random model of a kind into a new folder."""
    facts = WIDE[kind]
    return write_model(folder, make(kind, **facts), config_of(kind, **facts))
