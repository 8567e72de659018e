"""Memory of layers that keep a state instead of keys and values: a gated delta rule (Qwen3.5), Mamba-2.

    states = states_in(config, layers=24, on_cpu=False)      # from config.json; None without such layers
    states.numbers_per_token(length=600) * 4                  # bytes that the backward needs

The factors were fitted to measured peaks of single layers of several widths and of small models (mlx 0.32.4,
float32). Other layers with a state (rwkv7, kimi_linear, mamba) are not recognized, and count as attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATE_COPIES = 1.8  # copies of the rows' states while they are sampled
STATE_STARTS = 2.0  # in an update: the state that a row begins with, and its gradient
DELTA_KEPT, DELTA_SQUARES, DELTA_STATES = 8.7, 14.5, 2.8  # of a token's channels, its chunk, the states
MAMBA_KEPT, MAMBA_SQUARES = 12.6, 2.5  # of a token's channels, and its chunk
DELTA_MORE, MAMBA_MORE = 0.56, 1.4  # of what a layer keeps, once more while its gradient is computed
MAMBA_CHUNK = 256  # tokens that mlx-lm's ssm_attn reads at once
DELTA_CHUNK = {True: 16, False: 64}  # models/gated_delta.py's, on a CPU and elsewhere
# Names of heads, channels of a head, and numbers of a channel's state, for Mamba-2 layers.
MAMBA_NAMES = (
    ("mamba_n_heads", "mamba_d_head", "mamba_d_state"),  # granitemoehybrid, falcon_h1
    ("mamba_num_heads", "mamba_head_dim", "ssm_state_size"),  # nemotron_h
    ("num_heads", "head_dim", "state_size"),  # mamba2
)
STATE_MARKS = {"linear_attention", "mamba", "M"}  # of a state in layer_types or hybrid_override_pattern


@dataclass(frozen=True, kw_only=True)
class States:
    """Sizes of the layers with a state."""

    layers: int
    replaced: int  # layers of attention that they stand for; 0 if both are in every layer (falcon_h1)
    heads: int
    width: int  # channels of a token that the layer computes with
    state: int  # numbers of a row's state in one layer
    delta_chunk: int = 0  # tokens that a gated delta rule solves at once; 0: Mamba-2

    def numbers_per_token(self, length: int) -> float:
        """Numbers kept for the backward, for each token of a row of this length in one layer."""
        if not self.delta_chunk:
            return MAMBA_KEPT * self.width + MAMBA_SQUARES * self.heads * min(length, MAMBA_CHUNK)
        squares = DELTA_SQUARES * self.heads * self.delta_chunk
        return DELTA_KEPT * self.width + squares + DELTA_STATES * self.state / self.delta_chunk

    def numbers_at_once(self, kept: float, rows: int, length: int) -> float:
        """Numbers beside the `kept` ones while the gradient of one layer is computed.

        `rows`: those that begin with a state and have this length: Mamba-2 multiplies it with each token.
        """
        if self.delta_chunk:
            return DELTA_MORE * kept
        return MAMBA_MORE * kept + rows * min(length, MAMBA_CHUNK) * self.state


def states_in(config: Mapping[str, Any], layers: int, on_cpu: bool) -> States | None:
    """The layers with a state in a config.json; None without any. `layers`: of the whole model.

    Raises KeyError, TypeError or ValueError for keys that are missing or no numbers.
    """
    count = state_layers(config, layers)
    if not count:
        return None
    if "linear_num_value_heads" in config:
        heads, keys = int(config["linear_num_value_heads"]), int(config["linear_num_key_heads"])
        of_key, of_value = int(config["linear_key_head_dim"]), int(config["linear_value_head_dim"])
        return States(
            layers=count,
            replaced=count,
            heads=heads,
            width=2 * keys * of_key + heads * of_value,
            state=heads * of_key * of_value,
            delta_chunk=DELTA_CHUNK[on_cpu],
        )
    names = mamba_names(config)
    if names is None:
        return None
    heads, channels, state = (int(config[name]) for name in names)
    is_beside = config.get("model_type") == "falcon_h1"
    width = heads * channels
    return States(
        layers=count, replaced=0 if is_beside else count, heads=heads, width=width, state=width * state
    )


def mamba_names(config: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The names by which a config.json gives the sizes of Mamba-2 layers."""
    return next((names for names in MAMBA_NAMES if all(name in config for name in names)), None)


def state_layers(config: Mapping[str, Any], layers: int) -> int:
    """Number of layers with a state."""
    kinds = config.get("layer_types") or config.get("hybrid_override_pattern")
    if kinds:
        return sum(kind in STATE_MARKS for kind in kinds)
    interval = config.get("full_attention_interval")
    if interval:
        return layers - layers // int(interval)
    return layers if mamba_names(config) else 0
