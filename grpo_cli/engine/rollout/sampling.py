"""Sampling of the next tokens, with the logprobs that the loss needs.

The recorded logprob is log π(token) at the sampling temperature over the whole vocabulary. The training
forward computes the same quantity, so on policy the ratio is 1.

top_k, top_p and min_p restrict sampling to a part K of the vocabulary. A token is then drawn with probability
q = π(token) / m, where m = Σ_{v in K} π(v) is the kept mass. log m is recorded for every token:

    log q(token) = log π(token) − log m

    [0.5, 0.25, 0.15, 0.1] with top_k = 2: m = 0.75, and the first token is drawn with q = 0.5 / 0.75

The loss treats K and m as constants. So q_new / q_old = (π_new / m) / (π_old / m) = π_new / π_old: the mass
cancels, and the ratio is that of the whole distributions. The approximation is in the gradient, which ignores
that an update changes m.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.cpu.exact_sums import BLOCK, block_sums, row_sums, running_sums
from grpo_cli.cpu.fast_exp import exp

LIKELIEST = 1024  # tokens that top_p sorts before it has to sort the whole vocabulary
NO_WEIGHT = -1e4  # a finite logarithm whose exponential is 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters and stop conditions of completions. Temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    @property
    def cuts_tail(self) -> bool:
        """True if top_k, top_p or min_p exclude tokens."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @staticmethod
    def for_training(config: Config) -> "Sampling":
        """The configured sampling of rollouts."""
        return Sampling(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            stop=tuple(config.stop),
        )

    @staticmethod
    def for_evaluation(config: Config) -> "Sampling":
        """Greedy sampling of up to eval_max_new_tokens tokens."""
        return Sampling(max_new_tokens=config.eval_max_new_tokens, temperature=0.0, stop=tuple(config.stop))


@dataclass(frozen=True)
class SampledTokens:
    """One sampled token per row, with its logprob and the entropy of its distribution."""

    tokens: mx.array  # (B,) int32
    logprobs: mx.array  # (B,) float32, log π(token) at the temperature
    entropies: mx.array  # (B,) float32, nats, of the whole distribution
    log_kept: mx.array | None = None  # (B,) float32, log m kept by top_k, top_p and min_p; None: m = 1

    def submit(self) -> None:
        """Start computing all arrays. One left out would be computed when it is read, after the next step."""
        kept = [] if self.log_kept is None else [self.log_kept]
        mx.async_eval(self.tokens, self.logprobs, self.entropies, kept)


class KeyChain:
    """A sequence of random keys that only the sampling of a run uses.

    MLX's global random state is shared: a reward that calls `mx.random.seed(0)`, as a reproducible judge may,
    would give every step the same noise. The keys equal those of MLX's global state with the same two words,
    so checkpoints of earlier versions, which have that state, continue unchanged.
    """

    def __init__(self, words: list[int]) -> None:
        self.key = mx.array(words, dtype=mx.uint32)  # (2,)

    @staticmethod
    def of_seed(seed: int) -> "KeyChain":
        """The chain with the keys that follow `mx.random.seed(seed)`."""
        return KeyChain(mx.random.key(seed).tolist())  # type: ignore[arg-type]

    @property
    def words(self) -> list[int]:
        """The chain's state, for checkpoints: two words."""
        words: Any = self.key.tolist()
        return list(words)

    def next(self) -> mx.array:
        """A new key: (2,)."""
        self.key, key = mx.random.split(self.key)
        return key


def uniforms(rows: int, key: mx.array | None = None) -> mx.array:
    """Two random numbers from 0 to just below 1 for each row: (B, 2)."""
    return mx.random.uniform(high=1.0 - 1e-6, shape=(rows, 2), key=key)


def draw(logits: mx.array, sampling: Sampling, random: mx.array | None = None) -> SampledTokens:
    """Sample one token per row of `logits` (B, V) with random numbers (B, 2).

    Without `random` they come from MLX's global random state. Draw, logprob, entropy and kept mass share one
    exponential per logit, which is most of the cost on a CPU.
    """
    greedy, log_kept = sampling.temperature == 0, None
    logits = logits.astype(mx.float32)
    scaled = logits if sampling.temperature in (0, 1) else logits / sampling.temperature  # (B, V)
    below = scaled - scaled.max(axis=-1, keepdims=True)  # (B, V) at most 0
    weights = exp(below)  # (B, V) probabilities, not yet divided by their sum
    sums = block_sums(weights)  # (B, blocks)
    total = row_sums(sums)  # (B,)
    if greedy:
        tokens = mx.argmax(scaled, axis=-1)
    else:
        drawn_from, drawn_sums = weights, sums
        if sampling.cuts_tail:
            drawn_from = mx.where(narrow(scaled, sampling) == -mx.inf, 0.0, weights)
            drawn_sums = block_sums(drawn_from)
            log_kept = mx.log(row_sums(drawn_sums) / total)
        tokens = pick(drawn_from, drawn_sums, uniforms(len(logits)) if random is None else random)
    chosen = mx.take_along_axis(below, tokens[:, None], axis=-1).squeeze(-1)
    # E[log weight]; logits of −inf contribute 0
    expected = row_sums(weights * mx.maximum(below, NO_WEIGHT)) / total
    return SampledTokens(tokens, chosen - mx.log(total), mx.log(total) - expected, log_kept)


def pick(weights: mx.array, sums: mx.array, random: mx.array) -> mx.array:
    """Draw an index per row of `weights` (B, V) with probability weight / Σ weights. `sums`: block sums.

    Draws a block of tokens by its sum, then a token within it; `random` (B, 2) has a number for each draw.
    Float32 running sums over a whole vocabulary would lose its unlikely tokens.
    """
    block = first_beyond(sums, random[:, :1])  # (B,)
    places = block[:, None] * BLOCK + mx.arange(BLOCK)  # (B, BLOCK), maybe past the end in the last block
    last = weights.shape[-1] - 1
    inside = mx.where(places > last, 0.0, mx.take_along_axis(weights, mx.minimum(places, last), axis=-1))
    return block * BLOCK + first_beyond(inside, random[:, 1:])


def first_beyond(weights: mx.array, share: mx.array) -> mx.array:
    """The first index of each row at which the running sum exceeds the share (B, 1) of the row's total."""
    running = mx.cumsum(weights, axis=-1)
    return (running > share * running[:, -1:]).argmax(axis=-1).astype(mx.int32)


def narrow(scaled: mx.array, sampling: Sampling) -> mx.array:
    """Apply top_k, then top_p, then min_p: excluded tokens become −inf. The likeliest token always stays."""
    if 0 < sampling.top_k < scaled.shape[-1]:
        scaled = keep_top_k(scaled, sampling.top_k)
    if sampling.top_p < 1.0:
        scaled = keep_top_p(scaled, sampling.top_p)
    if sampling.min_p > 0.0:
        threshold = scaled.max(axis=-1, keepdims=True) + mx.log(mx.array(sampling.min_p))
        scaled = mx.where(scaled < threshold, -mx.inf, scaled)
    return scaled


def keep_top_k(scaled: mx.array, k: int) -> mx.array:
    """Keep the k likeliest tokens of each row, and tokens that tie with the last of them."""
    smallest_kept = -mx.partition(-scaled, k - 1, axis=-1)[:, k - 1 : k]  # (B, 1)
    return mx.where(scaled < smallest_kept, -mx.inf, scaled)


def keep_top_p(scaled: mx.array, p: float) -> mx.array:
    """Keep the smallest set of likeliest tokens whose probability reaches p: scaled (B, V), −inf elsewhere.

    Holtzman et al. 2020, arXiv:1904.09751, eq. 2 and 3. A token is kept if all likelier tokens together have
    less than p. On a CPU only the LIKELIEST tokens are sorted; a row in which they do not reach p is sorted
    whole.
    """
    weights = exp(scaled - scaled.max(axis=-1, keepdims=True))  # (B, V)
    probs = weights / row_sums(weights)[:, None]
    if scaled.shape[-1] <= LIKELIEST or device.prepare().kind != "cpu":
        # Other devices partition by sorting, and reading the undecided rows would make the host wait.
        kept, _ = nucleus(probs, mx.argsort(-scaled, axis=-1), p)
        return mx.where(kept, scaled, -mx.inf)
    some = mx.argpartition(-scaled, LIKELIEST - 1, axis=-1)[:, :LIKELIEST]  # the likeliest, in no order
    order = mx.argsort(-mx.take_along_axis(scaled, some, axis=-1), axis=-1)
    kept, decided = nucleus(probs, mx.take_along_axis(some, order, axis=-1), p)
    is_decided: Any = decided.tolist()
    undecided = mx.array([row for row, known in enumerate(is_decided) if not known], dtype=mx.int32)
    if undecided.size:
        kept[undecided], _ = nucleus(probs[undecided], mx.argsort(-scaled[undecided], axis=-1), p)
    return mx.where(kept, scaled, -mx.inf)


def nucleus(probs: mx.array, order: mx.array, p: float) -> tuple[mx.array, mx.array]:
    """The tokens that top_p keeps, (B, V) bool, and the decided rows, (B,) bool.

    `order` (B, K): the K likeliest tokens, likeliest first. A row is decided if these K reach p.
    """
    ordered = mx.take_along_axis(probs, order, axis=-1)  # (B, K)
    reached = running_sums(ordered)
    before = reached - ordered  # probability of all likelier tokens
    kept = mx.put_along_axis(mx.zeros(probs.shape, dtype=mx.bool_), order, before < p, axis=-1)
    return kept, reached[:, -1] >= p
