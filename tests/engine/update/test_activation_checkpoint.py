"""Layers that are computed again in the backward: the same gradients, for less memory."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gemma2, llama, nanochat, qwen2, qwen3

from grpo_cli.engine import events, setup
from grpo_cli.engine.run import Run
from grpo_cli.engine.slower_ways import NO_LAYERS
from grpo_cli.engine.update.activation_checkpoint import CheckpointedLayer, can_checkpoint, checkpointed
from grpo_cli.engine.update.batch import Microbatch
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.models import nanochat_v2
from grpo_cli.models.adapters import LoRA, add_adapters
from tests.support.prepared_runs import distance, movement, prepared
from tests.support.steps import objective_of

COMMON = {"hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 32, "num_attention_heads": 2,
          "num_key_value_heads": 1, "vocab_size": 48, "rms_norm_eps": 1e-5}  # fmt: skip
WITHOUT_EPS = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"}
MODELS = {
    "llama": lambda: llama.Model(llama.ModelArgs(model_type="llama", tie_word_embeddings=False, **COMMON)),
    "qwen2": lambda: qwen2.Model(qwen2.ModelArgs(model_type="qwen2", tie_word_embeddings=True, **COMMON)),
    "qwen3": lambda: qwen3.Model(
        qwen3.ModelArgs(
            model_type="qwen3",
            head_dim=8,
            tie_word_embeddings=True,
            max_position_embeddings=64,
            rope_theta=1e4,
            **COMMON,
        )
    ),
    "gemma2": lambda: gemma2.Model(
        # As many keys as queries: with fewer, mlx-lm's gemma2 cannot read prompts of several lengths.
        gemma2.ModelArgs(
            model_type="gemma2", head_dim=8, query_pre_attn_scalar=8.0, **{**COMMON, "num_key_value_heads": 2}
        )
    ),
    "nanochat": lambda: nanochat.Model(nanochat.ModelArgs(model_type="nanochat", **WITHOUT_EPS)),
    "nanochat_v2": lambda: nanochat_v2.Model(
        nanochat_v2.ModelArgs(**{**WITHOUT_EPS, "hidden_size": 32, "short_window": 4})
    ),
}


def model_of(kind: str) -> nn.Module:
    """A random model; scalars that begin as 0 or 1 are moved, so that what they switch on has a gradient."""
    mx.random.seed(3)
    model = MODELS[kind]()
    for name in ("smear_lambda", "backout_lambda", "x0_lambdas", "resid_lambdas"):
        if name in model:
            model[name] = model[name] + 0.3
    mx.eval(model.parameters())
    return model


def batch() -> Microbatch:
    """Two prompts of other lengths with two completions each."""
    mx.random.seed(4)
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).astype(mx.bool_)
    return Microbatch(
        prompts=[[3, 4, 5, 9, 11, 2, 7], [6, 7]],
        rows=[0, 0, 1, 1],
        targets=mx.random.randint(0, 48, (4, 5)),
        loss_mask=mask,
        old_logprobs=mx.full((4, 5), -3.0),
        advantages=mx.array([[1.0], [-1.0], [0.5], [-0.5]]),
        weights=mx.full((4, 1), 1 / 14),
    )


def gradients(model: nn.Module, **settings: Any) -> dict[str, mx.array]:
    found, _ = accumulate(model, [batch()], objective_of("reinforce", 0.7, 0.2, 0.2, 0.0, **settings))
    return dict(tree_flatten(found))


def relative(a: dict[str, mx.array], b: dict[str, mx.array]) -> float:
    """The largest difference of an array, relative to that array's norm (or a thousandth of the whole's)."""
    assert a.keys() == b.keys()
    whole = sum(value.square().sum().item() for value in a.values()) ** 0.5
    assert whole > 1e-3
    return max(
        mx.linalg.norm(a[name] - b[name]).item() / max(mx.linalg.norm(a[name]).item(), 1e-3 * whole)
        for name in a
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("adapters", [False, True])
def test_gradients_are_those_of_a_plain_backward(kind: str, adapters: bool) -> None:
    """Not shared, shared, and both with layers computed again: one gradient."""
    model = model_of(kind)
    if adapters:
        add_adapters(model, LoRA(rank=2))
        assert all("lora" in name for name, _ in tree_flatten(model.trainable_parameters()))
    head = find_head(model)
    assert can_checkpoint(model)
    plain = gradients(model, share_prefix=False)
    shared = gradients(model, share_prefix=True)
    assert relative(plain, shared) < 1e-5
    assert relative(plain, gradients(model, share_prefix=False, recompute=True)) < 1e-6
    assert relative(shared, gradients(model, share_prefix=True, recompute=True)) < 1e-6
    assert relative(shared, gradients(model, share_prefix=True, recompute=True, head=head)) < 1e-6


def test_the_block_leaves_the_model_as_it_was() -> None:
    model = model_of("llama")
    layers, names = list(model.layers), [name for name, _ in tree_flatten(model.parameters())]
    plain = type(model.layers[0]).__call__
    with pytest.raises(KeyError), checkpointed(model):
        assert all(isinstance(layer, CheckpointedLayer) for layer in model.layers)
        raise KeyError
    assert all(now is before for now, before in zip(model.layers, layers, strict=True))
    assert type(model.layers[0]).__call__ is plain
    before = [array for _, array in tree_flatten(model.parameters())]
    gradients(model, recompute=True)
    assert [name for name, _ in tree_flatten(model.parameters())] == names
    assert all(
        mx.array_equal(a, b) for (_, a), b in zip(tree_flatten(model.parameters()), before, strict=True)
    )


def test_each_layer_is_computed_twice_for_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in the forward and once in the backward, for the prompts and for the completions."""
    model = model_of("qwen3")
    calls = []
    kind = type(model.layers[0])
    original = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    gradients(model, share_prefix=True, recompute=True)
    assert len(calls) == 2 * 2 * 3
    calls.clear()
    gradients(model, share_prefix=False, recompute=True)
    assert len(calls) == 2 * 3


class TwoOutputs(nn.Module):
    """A layer that also returns something else."""

    def __call__(self, x: mx.array) -> tuple[mx.array, None]:
        return x, None


class Unusual(nn.Module):
    """A model whose layers return pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [TwoOutputs()]

    def __call__(self, ids: mx.array) -> mx.array:
        return self.layers[0](ids.astype(mx.float32))[0]


class Sliced(Unusual):
    """A model that gives another list than it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(3, 3)]
        self.layers = list(self.blocks)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.blocks[0](ids.astype(mx.float32))


def test_models_that_it_is_not_for() -> None:
    assert not can_checkpoint(Unusual())
    assert not can_checkpoint(Sliced())
    assert not can_checkpoint(nn.Linear(2, 2))


def peak_of_a_gradient(layers: int, tokens: int, **settings: Any) -> int:
    """Bytes beyond the weights and as many of gradients."""
    shape = {**COMMON, "num_hidden_layers": layers, "hidden_size": 64, "intermediate_size": 256}
    model = llama.Model(llama.ModelArgs(model_type="llama", tie_word_embeddings=False, **shape))
    mx.eval(model.parameters())
    rows = 8
    part = Microbatch(
        prompts=[list(range(40))], rows=[0] * rows, targets=mx.random.randint(0, 48, (rows, tokens)),
        loss_mask=mx.ones((rows, tokens), dtype=mx.bool_), old_logprobs=mx.full((rows, tokens), -3.0),
        advantages=mx.array([[1.0], [-1.0]] * (rows // 2)), weights=mx.full((rows, 1), 1 / rows / tokens),
    )  # fmt: skip
    objective = objective_of("reinforce", 1.0, 0.2, 0.2, 0.0, **settings)
    accumulate(model, [part], objective)
    mx.clear_cache()
    mx.reset_peak_memory()
    gc.collect()  # what earlier tests left must not be freed within the measurement
    before = mx.get_active_memory()
    accumulate(model, [part], objective)
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    return mx.get_peak_memory() - before - weights


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_layer_more_keeps_one_hidden_state_more(share_prefix: bool) -> None:
    """From 2 layers to 32 the peak grows by a hidden state of every token a layer; else by 20 times it."""
    tokens = 64
    columns = 8 * tokens + 40 if share_prefix else 8 * (tokens + 40)
    hidden = 4 * 64 * columns
    growth = {
        checkpoint: (
            peak_of_a_gradient(32, tokens, share_prefix=share_prefix, recompute=checkpoint)
            - peak_of_a_gradient(2, tokens, share_prefix=share_prefix, recompute=checkpoint)
        )
        / 30
        / hidden
        for checkpoint in (False, True)
    }
    assert growth[True] < 1.5, growth
    assert growth[False] > 20 * growth[True], growth


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture
def layer_calls(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """Grows with every forward of a layer. mlx-lm's checkpointing changes the class: undone at the end."""
    calls: list[None] = []
    layer_class = type(run.policy.model.layers[0])
    original = layer_class.__call__

    def counted(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        calls.append(None)
        return original(self, *inputs, **options)

    monkeypatch.setattr(layer_class, "__call__", counted)
    yield calls


def test_a_checkpointed_step_computes_layers_twice_and_moves_the_same(
    tmp_path: Path, layer_calls: list[None]
) -> None:
    moved = []
    for grad_checkpoint in (False, True):
        run, batches = prepared(tmp_path, grad_checkpoint=grad_checkpoint)
        assert run.forward_plan.share_prefix
        assert run.forward_plan.recompute is grad_checkpoint
        layer_calls.clear()
        moved.append(movement(run, batches))
    # forward and backward, each for the prompts and for the completions
    assert len(layer_calls) == 2 * 2 * len(run.policy.model.layers) * len(batches)
    assert distance(moved[0], moved[1]) < 1e-5


def test_a_model_whose_layers_cannot_be_stood_for_is_checkpointed_without_a_shared_prompt(
    tmp_path: Path, layer_calls: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mlx-lm does it, which changes the layers' class: `layer_calls` undoes that at the end."""
    plain, batches = prepared(tmp_path)
    expected = movement(plain, batches)
    monkeypatch.setattr(setup, "can_checkpoint", lambda _: False)
    told: list[events.Event] = []
    run = setup.prepare(plain.config.model_copy(update={"grad_checkpoint": True}), told.append)
    assert (run.forward_plan.share_prefix, run.forward_plan.recompute) == (False, False)
    assert told == [events.Notice(NO_LAYERS)]
    layer_calls.clear()
    assert distance(expected, movement(run, batches)) < 1e-5
    assert len(layer_calls) == 2 * len(run.policy.model.layers) * len(batches)
