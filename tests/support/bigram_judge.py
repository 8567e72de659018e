"""A judge whose answers are known: each token alone decides the next one, by a table."""

from typing import Any

import mlx.core as mx

from grpo_cli.models.load import Policy
from grpo_cli.types import Message
from tests.support.random_models import EOS, VOCAB, ByteTokenizer, llama_policy

WIDTH = 260  # one dimension for each token
# After the question's last letter: g and > → 9, b → 5, r → two lines of a ranking; others → `?`.
NEXT = {"g": "9", ">": "9", "b": "5", "r": "1", "1": "=", "=": "8", "8": "\n", "\n": "2", "2": ":", ":": "3"}


def known_score(text: str) -> float | None:
    """The score that a question with this end gets."""
    return {"g": 0.9, ">": 0.9, "b": 0.5}.get(text[-1:])


class BareTokenizer(ByteTokenizer):
    """Bytes, and nothing after a question."""

    now = None

    def encode_prompt(self, messages: list[Message], prefix: str = "") -> list[int]:
        return self.encode("".join(message["content"] for message in messages) + prefix)


def bigram_policy(**changes: Any) -> Policy:
    """A llama whose layers add nothing, so that its head sees the last token's embedding alone."""
    policy = llama_policy(hidden_size=WIDTH, num_attention_heads=2, tie_word_embeddings=False, **changes)
    follows = [ord("?")] * VOCAB
    for letter, following in NEXT.items():
        follows[ord(letter)] = ord(following)
    for end in "935?":
        follows[ord(end)] = EOS
    model: Any = policy.model
    model.model.embed_tokens.weight = mx.eye(VOCAB, WIDTH)
    head = mx.zeros((VOCAB, WIDTH))
    head[mx.array(follows), mx.arange(VOCAB)] = 10.0
    model.lm_head.weight = head
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight = mx.zeros_like(layer.self_attn.o_proj.weight)
        layer.mlp.down_proj.weight = mx.zeros_like(layer.mlp.down_proj.weight)
    mx.eval(model.parameters())
    policy.tokenizer = BareTokenizer()
    return policy
