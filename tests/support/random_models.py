"""A small random model and a byte tokenizer: no download, no files."""

from typing import Any

import mlx.core as mx
from mlx_lm.models import llama, nanochat

from grpo_cli.models.load import Policy
from grpo_cli.types import Example, Message, Rollout, RolloutGroup, StopReason

EOS = 256
VOCAB = 257


class ByteTokenizer:
    """Token = byte; 256 ends a completion."""

    eos_ids = frozenset({EOS})
    vocab_size = needed_size = VOCAB
    control_ids = eos_ids
    merges_system = False
    template_keywords: dict[str, Any] = {}  # noqa: RUF012

    def unread_keywords(self) -> list[str]:
        return list(self.template_keywords)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        return self.encode("\n".join(message["content"] for message in messages) + "\n" + prefix)

    def decode(self, ids: list[int]) -> str:
        return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace")

    def spell(self, ids: list[int]) -> str:
        return self.decode(ids)

    def save(self, folder) -> None:  # type: ignore[no-untyped-def]
        (folder / "tokenizer.txt").write_text("bytes")


NANOCHAT = {
    "model_type": "nanochat",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "intermediate_size": 64,
}


def nanochat_policy(seed: int = 0, tmp_path=None) -> Policy:  # type: ignore[no-untyped-def]
    """A random nanochat of two layers, in float32, sharp enough that its tokens differ in likelihood."""
    mx.random.seed(seed)
    model = nanochat.Model(nanochat.ModelArgs.from_dict(NANOCHAT))
    model.lm_head.weight = model.lm_head.weight * 8
    mx.eval(model.parameters())
    return Policy(
        model=model, tokenizer=ByteTokenizer(), config=dict(NANOCHAT), path=tmp_path, source="random"
    )


def llama_policy(seed: int = 0, **changes: Any) -> Policy:
    """A random llama of two layers, with tied embeddings unless it is changed."""
    mx.random.seed(seed)
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        **changes,
    }
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.eval(model.parameters())
    return Policy(model=model, tokenizer=ByteTokenizer(), config=config, path=None, source="random")  # type: ignore[arg-type]


def sliding_policy(seed: int = 0) -> Policy:
    """A random llama whose first layer attends to 16 positions only: its cache rotates."""
    return llama_policy(seed, layer_types=["sliding_attention", "full_attention"], sliding_window=16)


def rollout(token_ids: list[int], advantage: float = 0.0, logprobs: list[float] | None = None) -> Rollout:
    """A rollout with given tokens."""
    logprobs = logprobs if logprobs is not None else [-1.0] * len(token_ids)
    return Rollout(
        token_ids=token_ids,
        logprobs=logprobs,
        entropies=[0.0] * len(token_ids),
        stop_reason=StopReason.LENGTH,
        text="",
        advantage=advantage,
    )


def group(prompt_ids: list[int], rollouts: list[Rollout]) -> RolloutGroup:
    """A group of one prompt."""
    return RolloutGroup(
        Example(messages=[{"role": "user", "content": "?"}], answer="1"), prompt_ids, rollouts
    )
