"""Compares the compiled loss with the plain one, with MLX's compiler on: run in a process of its own."""

from typing import Any

import mlx.core as mx

from grpo_cli import device
from grpo_cli.engine.update import chunked_logits, forward
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.shape_buckets import Most
from grpo_cli.models.tree import flat
from tests.support.microbatches import microbatch
from tests.support.random_models import llama_policy
from tests.support.steps import objective_of


def main() -> None:
    device.prepare()
    mx.enable_compile()
    model = llama_policy(num_hidden_layers=1, hidden_size=8, intermediate_size=8, vocab_size=48,
                         num_attention_heads=1, num_key_value_heads=1).model  # fmt: skip
    batches = [microbatch([[7, 8, 9], [5, 6]], [0, 0, 1], [3, 2, 1]), microbatch([[4, 3]], [0, 0], [4, 2])]
    for batch in batches:  # an environment wrote every third token
        batch.loss_mask = batch.loss_mask & (mx.arange(batch.loss_mask.shape[1])[None] % 3 != 1)
    told: list[Any] = []
    compiled = CompiledLoss(model, Most(8, 4, 4), told.append)
    forward.LOGITS_AT_ONCE, chunked_logits.SLICE = 48, 48 * 16  # two slices of the 32 tokens
    objective = objective_of("dapo", 0.9, 0.2, 0.2, 0.0, head=chunked_logits.find_head(model), recompute=True)
    for _ in range(2):  # with other weights the second time
        plain, expected = accumulate(model, batches, objective)
        found, result = accumulate(model, batches, objective, compiled=compiled)
        gaps = [mx.abs(flat(found)[name] - array).max().item() for name, array in flat(plain).items()]
        assert max(gaps) < 1e-5, gaps  # type: ignore[type-var]
        assert abs(result.loss - expected.loss) < 1e-5
        assert result.grad_norm > 0.01
        for one, other in zip(result.logprobs, expected.logprobs, strict=True):
            assert mx.allclose(one, other, atol=1e-5).item()
        embedded: Any = model.model
        embedded.embed_tokens.weight = embedded.embed_tokens.weight * 1.5
    assert not told, told
    print("compilations", compiled.compilations)


if __name__ == "__main__":
    main()
