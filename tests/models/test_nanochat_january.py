"""nanochat of January 2026: nanochat_v2, as the conversion sets it up, against a plain loop in float64.

No checkpoint of that month lies among the fixtures. The loop says what nanochat's gpt.py computed then:
logits, decoding with a cache, and gradients must be the loop's, and with any other setting they are not.
"""

import math
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from grpo_cli.convert.architecture import ModelConfig, recognize
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.prompt_cache import keep, read_prompts
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.models import nanochat_v2
from grpo_cli.models.caches import has_only_keys
from grpo_cli.models.nanochat_v2 import Model, ModelArgs
from grpo_cli.models.tree import flat
from tests.support.endless_policy import policy

META = {
    "sequence_len": 25,
    "vocab_size": 50,
    "n_layer": 5,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 32,
    "window_pattern": "SSLS",
}
WINDOWS = (12, 12, 25, 12, 25)  # 25 positions and half of them; the fifth layer's S is the last one's
ROWS = 64  # of which 50 stand for tokens
IDS = np.random.default_rng(1).integers(0, 50, 40).tolist()  # beyond 25 positions: the windows go on
PROMPTS = [IDS[:1], IDS[7:9], IDS[3:14], IDS[5:35]]  # the last two go past a window, with what follows

Weights = dict[str, np.ndarray]


def january_weights() -> Weights:
    """Random float32 numbers under the names of a January checkpoint, each far from where it does nothing."""
    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return draw.normal(0, scale / math.sqrt(columns), (rows, columns)).astype(np.float32)

    weights = {"transformer.wte.weight": matrix(ROWS, 32, 3.0), "lm_head.weight": matrix(ROWS, 32, 4.0)}
    for layer in range(5):
        name = f"transformer.h.{layer}"
        weights |= {f"{name}.attn.c_q.weight": matrix(32, 32), f"{name}.attn.c_k.weight": matrix(16, 32)}
        weights |= {f"{name}.attn.c_v.weight": matrix(16, 32), f"{name}.attn.c_proj.weight": matrix(32, 32)}
        weights |= {f"{name}.mlp.c_fc.weight": matrix(128, 32), f"{name}.mlp.c_proj.weight": matrix(32, 128)}
    weights["resid_lambdas"] = np.array([1.1, 0.9, 1.2, 0.8, 1.05], np.float32)
    weights["x0_lambdas"] = np.array([0.2, -0.3, 0.4, 0.25, -0.15], np.float32)
    return weights


WEIGHTS = january_weights()


def january_args() -> ModelArgs:
    """What the conversion makes of these names and this meta."""
    shapes = {name: array.shape for name, array in WEIGHTS.items()}
    found = recognize(shapes, ModelConfig.model_validate(META), "model_000650.pt")
    assert found.operations == []
    return ModelArgs.from_dict(found.config)


def january_model(**changes: Any) -> Model:
    """The model with these weights; what a change adds has numbers that do something."""
    args = replace(january_args(), **changes)
    mx.random.seed(0)
    model = Model(args)
    model.load_weights([(name, mx.array(array)) for name, array in WEIGHTS.items()], strict=not changes)
    if args.smear:
        model.smear_lambda = mx.array([0.5])
    if args.backout:
        model.backout_lambda = mx.array([0.3])
    return model


# --- the plain loop ----------------------------------------------------------------------------------


def plain_norm(x: np.ndarray) -> np.ndarray:
    return x / math.sqrt((x**2).mean() + 1.19e-7)


def plain_rotation(x: np.ndarray, position: int) -> np.ndarray:
    """One head's eight channels: each of the first four turns with the one four further on, by −θ."""
    turned = np.zeros(8)
    for i in range(4):
        theta = position / 10000 ** (i / 4)
        turned[i] = x[i] * math.cos(theta) + x[i + 4] * math.sin(theta)
        turned[i + 4] = x[i + 4] * math.cos(theta) - x[i] * math.sin(theta)
    return plain_norm(turned)


def plain_attention(w: Weights, name: str, h: list[np.ndarray], window: int) -> list[np.ndarray]:
    """What each token takes from those before it, at most `window` back; two query heads share a key."""
    queries, keys, values = ([w[f"{name}.{part}.weight"] @ x for x in h] for part in ("c_q", "c_k", "c_v"))
    keys = [[plain_rotation(key[:8], t), plain_rotation(key[8:], t)] for t, key in enumerate(keys)]
    outs = []
    for t in range(len(h)):
        seen = [j for j in range(t + 1) if t - j <= window]
        out = []
        for head in range(4):
            query, shared = plain_rotation(queries[t][8 * head : 8 * head + 8], t), head // 2
            scores = np.exp([query @ keys[j][shared] / math.sqrt(8) for j in seen])
            part = [values[j][8 * shared : 8 * shared + 8] for j in seen]
            out.append(scores / scores.sum() @ np.array(part))
        outs.append(w[f"{name}.c_proj.weight"] @ np.concatenate(out))
    return outs


def plain_logits(ids: list[int], w: Weights | None = None) -> np.ndarray:
    """Logits (T, 50) of the January model, one token after the other."""
    w = {name: array.astype(np.float64) for name, array in (w or WEIGHTS).items()}
    first = [plain_norm(w["transformer.wte.weight"][token]) for token in ids]
    stream = first
    for layer, window in enumerate(WINDOWS):
        name, keep_x, mix_in = f"transformer.h.{layer}", w["resid_lambdas"][layer], w["x0_lambdas"][layer]
        stream = [keep_x * x + mix_in * x0 for x, x0 in zip(stream, first, strict=True)]
        taken = plain_attention(w, f"{name}.attn", [plain_norm(x) for x in stream], window)
        stream = [x + more for x, more in zip(stream, taken, strict=True)]
        up, down = w[f"{name}.mlp.c_fc.weight"], w[f"{name}.mlp.c_proj.weight"]
        stream = [x + down @ np.maximum(up @ plain_norm(x), 0) ** 2 for x in stream]
    return np.array([15 * np.tanh(w["lm_head.weight"][:50] @ plain_norm(x) / 15) for x in stream])


PLAIN = plain_logits(IDS)


def distance(logits: mx.array, plain: np.ndarray) -> float:
    """The largest difference of two logits."""
    assert logits.shape == plain.shape
    return float(np.abs(np.array(logits) - plain).max())


# --- logits ------------------------------------------------------------------------------------------


def test_the_loop_itself_uses_its_range() -> None:
    """Logits where the softcap bends, and no two tokens alike: small numbers would prove nothing."""
    assert 8 < np.abs(PLAIN).max() < 14.9
    assert PLAIN.std() > 2


def test_logits_equal_the_plain_loop() -> None:
    assert distance(january_model()(mx.array([IDS]))[0], PLAIN) < 2e-5


@pytest.mark.parametrize("first", [1, 7, 13, 14, 39])
def test_logits_equal_the_plain_loop_through_the_cache(first: int) -> None:
    """The first tokens at once, then one by one, past the ends of the windows."""
    model = january_model()
    cache = make_prompt_cache(model)
    assert len(cache) == 5  # without smearing no token ids are kept
    parts = [model(mx.array([IDS[:first]]), cache=cache)]
    parts += [model(mx.array([[token]]), cache=cache) for token in IDS[first:]]
    assert distance(mx.concatenate(parts, axis=1)[0], PLAIN) < 2e-5


@pytest.mark.parametrize("chunk", [None, 7])
def test_rows_of_a_mixed_batch_equal_the_plain_loop(chunk: int | None) -> None:
    model, tail = january_model(), [3, 1, 4, 1, 5]
    assert has_only_keys(model)
    order = [3, 1, 0, 2, 1]
    cache = read_prompts(model, PROMPTS, chunk)
    keep(cache, order)
    together = model(mx.array([[PROMPTS[row][-1], *tail[:2]] for row in order]), cache=cache)
    singly = [model(mx.array([[token]] * 5), cache=cache) for token in tail[2:]]
    logits = mx.concatenate([together, *singly], axis=1)  # (5, 6, V)
    for row, seen in zip(order, logits, strict=True):
        assert distance(seen, plain_logits(PROMPTS[row] + tail)[len(PROMPTS[row]) - 1 :]) < 2e-5


def test_greedy_ids_are_the_plain_loops() -> None:
    rollouts = generate(policy(january_model()), PROMPTS, 2, Sampling(max_new_tokens=15, temperature=0.0))
    for prompt, twins in zip(PROMPTS, rollouts, strict=True):
        ids = twins[0].token_ids
        assert len(ids) == 15
        assert twins[1].token_ids == ids
        assert ids == plain_logits(prompt + ids)[len(prompt) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"short_window": 11},
        {"short_window": 13},
        {"short_window": 6},  # a quarter
        {"short_window": 0},  # today's formula
        {"window_pattern": "SSSS"},
        {"window_pattern": "LSLS"},
        {"window_pattern": "SSLL"},
        {"max_position_embeddings": 24},
        {"query_key_scale": 1.2},
        {"query_key_scale": 1.15},
        {"rope_theta": 100000.0},
        {"smear": True},
        {"backout": True},
        {"value_embeddings": True},
    ],
    ids=str,
)
def test_any_other_setting_gives_other_logits(changes: dict[str, Any]) -> None:
    assert distance(january_model(**changes)(mx.array([IDS]))[0], PLAIN) > 1e-3


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_every_tensor_counts(name: str) -> None:
    """None has so little effect that a mistake with it would not show above."""
    model = january_model()
    model.load_weights([(name, mx.array(WEIGHTS[name] * 0.9 + 0.05))], strict=False)
    assert distance(model(mx.array([IDS]))[0], PLAIN) > 1e-3


def test_softcap_and_norm_of_the_embedding_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, model = mx.array([IDS]), january_model()
    monkeypatch.setattr(nanochat_v2, "SOFTCAP", 20.0)
    assert distance(model(ids)[0], PLAIN) > 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(Model, "embed", lambda self, inputs, _: self.transformer.wte(inputs))
    assert distance(model(ids)[0], PLAIN) > 1e-3


# --- gradients ---------------------------------------------------------------------------------------


def loss(model: nn.Module) -> mx.array:
    """Mean of −log p of every token after the first."""
    return nn.losses.cross_entropy(model(mx.array([IDS[:-1]]))[0], mx.array(IDS[1:]), reduction="mean")


def plain_loss(w: Weights) -> float:
    logits = plain_logits(IDS[:-1], w)
    chosen = logits[np.arange(39), IDS[1:]]
    return float((np.log(np.exp(logits).sum(-1)) - chosen).mean())


def test_every_parameter_learns() -> None:
    model = january_model()
    gradients = {
        name: np.array(array) for name, array in flat(nn.value_and_grad(model, loss)(model)[1]).items()
    }
    assert gradients.keys() == WEIGHTS.keys()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 1e-5, name
    assert (gradients["resid_lambdas"] != 0).all()
    assert (gradients["x0_lambdas"] != 0).all()
    assert not gradients["lm_head.weight"][50:].any()  # rows of no token
    assert not gradients["transformer.wte.weight"][50:].any()


def test_the_gradient_is_the_plain_loops_slope() -> None:
    """Along one random direction through all parameters, a little step there and back."""
    model = january_model()
    value, gradients = nn.value_and_grad(model, loss)(model)
    assert value.item() == pytest.approx(plain_loss(WEIGHTS), rel=1e-5)
    draw = np.random.default_rng(4)
    direction = {name: draw.normal(size=array.shape) for name, array in WEIGHTS.items()}
    slope = sum((np.array(array) * direction[name]).sum() for name, array in flat(gradients).items())
    moved = [{n: a + step * direction[n] for n, a in WEIGHTS.items()} for step in (1e-5, -1e-5)]
    assert slope == pytest.approx((plain_loss(moved[0]) - plain_loss(moved[1])) / 2e-5, rel=1e-3)
