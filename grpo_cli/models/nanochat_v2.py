"""nanochat as its current repository has it ("era B"), which mlx-lm's own nanochat cannot run.

    model = Model(ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    logits = model(mx.array([ids]))                         # (1, T, vocab_size) float32
    logits = model(mx.array([ids]), cache=make_prompt_cache(model))

Beyond mlx-lm's nanochat: every token is smeared with the one before it, every layer mixes the first
layer's input back in, every other layer adds value embeddings, every layer sees a window (most a short
one, the others sequence_len tokens back), and the middle of the network is taken out of the end.
Parameters are named as in nanochat's own files. A checkpoint of January 2026 has the mixed-in input and
the windows only: config.json says what there is.

The cache is one `KVCache` a layer, and one more that holds the token ids: from those the previous
token's embedding is looked up again, so the cache batches, trims, splits and carries gradients as
any model's does. A token's position in its row tells whether it has a predecessor, so the padding
on a row's left never reaches it.

Imports only mlx and mlx-lm, so that a model's folder can carry this file as its `model_file`.
Source: https://github.com/karpathy/nanochat (nanochat/gpt.py), commit 92d63d4e.
"""

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import BaseModelArgs, create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.cache import KVCache

# What the original fixes in its code and writes in no file.
NORM_EPS = 1.19e-7  # of float32
SMEAR_CHANNELS = 24  # a token's first channels decide how much of its predecessor it takes on
VALUE_GATE_SCALE = 3.0
SOFTCAP = 15.0
WINDOW_TILE = 128  # windows are whole tiles of the original's attention kernel


@dataclass
class ModelArgs(BaseModelArgs):
    """config.json of a model."""

    model_type: str = "nanochat_v2"
    hidden_size: int = 1280
    num_hidden_layers: int = 20
    num_attention_heads: int = 10
    num_key_value_heads: int = 10
    intermediate_size: int = 5120
    vocab_size: int = 32768
    padded_vocab_size: int = 0  # rows of the embeddings and of lm_head; 0: as many as vocab_size
    max_position_embeddings: int = 2048
    window_pattern: str = "SSSL"  # short or long, repeated over the layers; the last one is always long
    short_window: int = 0  # tokens back that a short layer sees; 0: a quarter of the positions, in tiles
    smear: bool = True
    backout: bool = True
    value_embeddings: bool = True
    value_gate_channels: int = 12
    query_key_scale: float = 1.2  # on both, after their norm
    rope_theta: float = 100000.0

    @property
    def rows(self) -> int:
        """Rows of the embeddings and of lm_head, those that stand for no token included."""
        return self.padded_vocab_size or self.vocab_size

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def window(self, layer: int) -> int:
        """How many tokens back the layer sees. A long one sees sequence_len back, not everything."""
        last = layer == self.num_hidden_layers - 1
        if last or self.window_pattern[layer % len(self.window_pattern)].upper() == "L":
            return self.max_position_embeddings
        quarter = math.ceil(self.max_position_embeddings / 4 / WINDOW_TILE) * WINDOW_TILE
        return self.short_window or quarter

    def has_value_embeddings(self, layer: int) -> bool:
        """Every other layer, the last one included."""
        return self.value_embeddings and layer % 2 == (self.num_hidden_layers - 1) % 2


def norm(x: mx.array) -> mx.array:
    """RMSNorm over the last axis, without weights."""
    return mx.fast.rms_norm(x, None, NORM_EPS)


def softcap(logits: mx.array) -> mx.array:
    """Bend logits smoothly into ±SOFTCAP, in float32."""
    return SOFTCAP * mx.tanh(logits.astype(mx.float32) / SOFTCAP)


class Attention(nn.Module):
    """Windowed attention with value embeddings."""

    def __init__(self, config: ModelArgs, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.c_q = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.c_k = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.c_v = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.c_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        if config.has_value_embeddings(layer):
            self.gate_channels = config.value_gate_channels
            self.ve_gate = nn.Linear(self.gate_channels, self.kv_heads, bias=False)
        # The factor on queries and keys is multiplied into the scores, which is the same for less work.
        self.scale = config.query_key_scale**2 * self.head_dim**-0.5
        half = self.head_dim // 2
        # Negative: the original rotates by −θ.
        self._wavelengths = -mx.exp(mx.arange(half, dtype=mx.float32) * (math.log(config.rope_theta) / half))

    def __call__(self, x: mx.array, embedded: mx.array | None, mask: Any, cache: Any) -> mx.array:
        """Attention over normed x (B, T, E); `embedded`: the tokens' value embeddings (B, T, KV·D)."""
        batch, length, _ = x.shape
        queries = self.c_q(x).reshape(batch, length, self.heads, self.head_dim)
        keys = self.c_k(x).reshape(batch, length, self.kv_heads, self.head_dim)
        values = self.c_v(x).reshape(batch, length, self.kv_heads, self.head_dim)
        if embedded is not None:
            gate = VALUE_GATE_SCALE * mx.sigmoid(self.ve_gate(x[..., : self.gate_channels]))
            values = values + gate[..., None] * embedded.reshape(values.shape)
        offset = cache.offset if cache is not None else 0
        queries, keys = self.rotate(queries, offset), self.rotate(keys, offset)
        values = values.swapaxes(1, 2)  # (B, KV, T, D)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        out = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.c_proj(out.swapaxes(1, 2).reshape(batch, length, -1))

    def rotate(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Rotary positions from `offset` on (of all rows or of each), then the norm: (B, heads, T, D)."""
        rotated = mx.fast.rope(
            x.swapaxes(1, 2),
            self.head_dim,
            traditional=False,
            base=None,
            scale=1.0,
            offset=offset,
            freqs=self._wavelengths,
        )
        return norm(rotated)


class MLP(nn.Module):
    """Two layers with a squared ReLU between them."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, E) → (B, T, E)."""
        return self.c_proj(nn.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention and MLP, each on the normed stream and added to it."""

    def __init__(self, config: ModelArgs, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, embedded: mx.array | None, mask: Any, cache: Any) -> mx.array:
        """(B, T, E) → (B, T, E)."""
        x = x + self.attn(norm(x), embedded, mask, cache)
        return x + self.mlp(norm(x))


class Transformer(nn.Module):
    """The token embeddings and the blocks, under the names of nanochat's files."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.rows, config.hidden_size)
        self.h = [Block(config, layer) for layer in range(config.num_hidden_layers)]


class Model(nn.Module):
    """The whole model; scalars begin where they change nothing, and a checkpoint brings its own."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.transformer = Transformer(args)
        self.lm_head = nn.Linear(args.hidden_size, args.rows, bias=False)
        if args.smear:
            self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
            self.smear_lambda = mx.zeros(1)
        if args.backout:
            self.backout_lambda = mx.zeros(1)
        self.resid_lambdas = mx.ones(args.num_hidden_layers)
        self.x0_lambdas = mx.zeros(args.num_hidden_layers)
        if args.value_embeddings:
            # A list with gaps: the tree of parameters then has the same form in memory and from a file.
            self.value_embeds = [
                nn.Embedding(args.rows, args.num_key_value_heads * args.head_dim)
                if args.has_value_embeddings(layer)
                else nn.Identity()
                for layer in range(args.num_hidden_layers)
            ]

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        """Logits (B, T, vocab_size) float32 after each of `inputs` (B, T)."""
        return self.logits_of(self.hidden_states(inputs, cache=cache))

    def logits_of(self, hidden: mx.array) -> mx.array:
        """Logits (…, vocab_size) float32 of hidden states (…, E)."""
        return softcap(self.lm_head(hidden)[..., : self.args.vocab_size])

    def hidden_states(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        """What logits are made of, normed: (B, T, E)."""
        caches = cache or [None] * (len(self.layers) + 1)  # without smearing the last one is not looked at
        first = x = self.embed(inputs, caches[-1])  # (B, T, E)
        masks = self.masks(x, caches[0])
        for layer, block in enumerate(self.layers):
            # The scalars may be finer than the stream, which keeps its own type.
            mixed = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * first
            embedded = self.value_embeds[layer](inputs) if self.args.has_value_embeddings(layer) else None
            x = block(mixed.astype(x.dtype), embedded, masks[layer], caches[layer])
            if layer == len(self.layers) // 2:
                middle = x
        if self.args.backout:
            x = (x - self.backout_lambda * middle).astype(x.dtype)
        return norm(x)

    def embed(self, inputs: mx.array, cache: KVCache | None) -> mx.array:
        """Normed embeddings (B, T, E), each smeared with the one before it in its row."""
        if not self.args.smear:
            return norm(self.transformer.wte(inputs))
        offset = cache.offset if cache is not None else 0
        positions = mx.array(offset)[..., None] + mx.arange(inputs.shape[1])  # (T,) or (B, T)
        x = norm(self.transformer.wte(with_previous(inputs, cache)))  # (B, 1 + T, E)
        before, x = x[:, :-1], x[:, 1:]
        gate = self.smear_lambda * mx.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))  # (B, T, 1)
        # The first token of a row has none before it, whatever stands in the column.
        return x + mx.where((positions > 0)[..., None], gate * before, 0).astype(x.dtype)

    def masks(self, x: mx.array, cache: KVCache | None) -> list[Any]:
        """Each layer's attention mask; key j is seen by query i where i − j ≤ window."""
        windows = [self.args.window(layer) for layer in range(len(self.layers))]
        offset = cache.offset if cache is not None else 0
        # Only a count on the host can tell that no window ends yet; a plain causal mask is then quicker.
        last = offset + x.shape[1] - 1 if isinstance(offset, int) else math.inf
        made = {
            # mlx-lm counts the token itself in.
            window: create_attention_mask(x, cache, window_size=window + 1 if last > window else None)
            for window in set(windows)
        }
        return [made[window] for window in windows]

    @property
    def layers(self) -> list[Block]:
        """The blocks, for adapters and quantisation."""
        return self.transformer.h

    def make_cache(self) -> list[KVCache]:
        """One for each layer, and with smearing a last one for the token ids."""
        return [KVCache() for _ in range(len(self.layers) + self.args.smear)]


def with_previous(inputs: mx.array, cache: KVCache | None) -> mx.array:
    """Ids (B, 1 + T): the column that stands before `inputs` (B, T), then inputs, which the cache takes in.

    At a row's beginning that column is 0.
    """
    seen = inputs
    if cache is not None:
        entry = inputs[:, None, :, None]  # a cache's shape: one head with one channel, (B, 1, T, 1)
        ids, _ = cache.update_and_fetch(entry, entry)
        seen = ids[:, 0, :, 0]  # (B, all columns so far)
    return mx.pad(seen, [(0, 0), (1, 0)])[:, -inputs.shape[1] - 1 :]
