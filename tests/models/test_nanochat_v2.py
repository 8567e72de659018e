"""nanochat of the current repository: against its own outputs, a plain loop, and itself through the cache."""

import hashlib
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.prompt_cache import keep, read_prompts
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.forward import ForwardPlan, token_logprobs
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.optimizer import make_rule
from grpo_cli.models import nanochat_v2
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.caches import has_only_keys
from grpo_cli.models.nanochat_v2 import Model, ModelArgs
from grpo_cli.models.tree import flat
from grpo_cli.types import RolloutGroup
from tests.support.endless_policy import policy
from tests.support.gradients import largest_difference
from tests.support.random_models import group, rollout
from tests.support.steps import objective_of

GENUINE = Path(__file__).parents[2] / "../shared/fixtures/nanochat/head-sft-small"
needs_genuine = pytest.mark.skipif(not GENUINE.exists(), reason="needs ../shared/fixtures/nanochat")

# Queries share keys, windows of 128 end within the sequences below, and rows stand for no token.
SMALL = ModelArgs(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=64,
    vocab_size=50,
    padded_vocab_size=64,
    max_position_embeddings=512,
)


# Short windows of 128 and long ones of 140: sequences of 150 tokens and more go beyond both.
BEYOND = replace(SMALL, max_position_embeddings=140)


def small_model(args: ModelArgs = SMALL) -> Model:
    """Random weights, every scalar away from where it changes nothing."""
    mx.random.seed(0)
    model = Model(args)
    model.smear_gate.weight = model.smear_gate.weight * 8
    model.lm_head.weight = model.lm_head.weight * 8
    model.smear_lambda, model.backout_lambda = mx.array([0.7]), mx.array([0.3])
    model.resid_lambdas, model.x0_lambdas = mx.array([1.1, 0.9, 1.2]), mx.array([0.2, -0.3, 0.4])
    mx.eval(model.parameters())
    return model


def genuine_model() -> Model:
    """The checkpoint that nanochat wrote: its tensors are the file's records, in the order of their names."""
    names: dict[str, Any] = json.loads((GENUINE / "tensors.json").read_text())
    weights = []
    with zipfile.ZipFile(GENUINE / "model_000059.pt") as archive:
        for index, (name, facts) in enumerate(names.items()):
            raw = archive.read(f"model_000059/data/{index}")
            assert hashlib.sha256(raw).hexdigest() == facts["sha256"]
            weights.append((name, mx.array(np.frombuffer(raw, np.float32).reshape(facts["shape"]))))
    config = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
    config |= {"intermediate_size": 256, "vocab_size": 1000, "padded_vocab_size": 1024}
    model = Model(ModelArgs.from_dict({**config, "max_position_embeddings": 512, "window_pattern": "SSSL"}))
    model.load_weights(weights, strict=True)
    return model


@pytest.fixture(params=["random", "beyond", pytest.param("genuine", marks=needs_genuine)])
def model(request: pytest.FixtureRequest) -> Model:
    if request.param == "genuine":
        return genuine_model()
    return small_model(SMALL if request.param == "random" else BEYOND)


def some_prompts() -> list[list[int]]:
    """Prompts of 1, 2, 9 and 150 tokens: the last one is longer than a window."""
    draw = np.random.default_rng(1).integers(0, 50, (4, 150)).tolist()
    return [draw[0][:1], draw[1][:2], draw[2][:9], draw[3]]


# --- against nanochat's own outputs ------------------------------------------------------------------


@needs_genuine
@pytest.mark.parametrize("prompt", ["chat", "long"])
def test_logits_equal_the_originals(prompt: str) -> None:
    stored = np.load(GENUINE / "logits_fp32.npz")
    logits = np.array(genuine_model()(mx.array(stored[f"{prompt}.ids"])[None])[0])
    assert logits.shape[-1] == 1000
    assert np.abs(logits[stored[f"{prompt}.pos"]] - stored[f"{prompt}.logits"]).max() < 2e-5
    assert (logits.argmax(-1) == stored[f"{prompt}.argmax"]).all()


@needs_genuine
@pytest.mark.parametrize("together", [True, False])
def test_greedy_ids_equal_the_originals_through_the_cache(together: bool) -> None:
    stored = json.loads((GENUINE / "greedy.json").read_text())["prompts"].values()
    prompts = [entry["prompt_ids"] for entry in stored]
    assert len({len(prompt) for prompt in prompts}) == 3
    who, sampling = policy(genuine_model()), Sampling(max_new_tokens=24, temperature=0.0)
    if together:
        rollouts = generate(who, prompts, 2, sampling)
    else:
        rollouts = [generate(who, [prompt], 1, sampling)[0] for prompt in prompts]
    for entry, twins in zip(stored, rollouts, strict=True):
        for one in twins:
            assert one.token_ids == entry["naive_greedy_ids"]


@needs_genuine
def test_forced_tokens_in_the_cache_lead_to_the_originals_next_tokens() -> None:
    """The original's engine wrote a tool's result among its own tokens; it was read with a cache."""
    entry = json.loads((GENUINE / "greedy.json").read_text())["prompts"]["plain"]
    prompt, ids, sampled = entry["prompt_ids"], entry["engine_greedy_ids"], entry["engine_mask"]
    assert 0 in sampled
    model = genuine_model()
    cache = make_prompt_cache(model)
    logits = model(mx.array([prompt]), cache=cache)
    for token, own in zip(ids, sampled, strict=True):
        if own:
            assert logits[0, -1].argmax().item() == token
        logits = model(mx.array([[token]]), cache=cache)


# --- against a plain loop ----------------------------------------------------------------------------


def plain_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1.19e-7)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def plain_rotation(x: np.ndarray) -> np.ndarray:
    """x (heads, T, D) turned by −θ, then normed."""
    half = x.shape[-1] // 2
    theta = np.arange(x.shape[1])[:, None] / 100000.0 ** (np.arange(half) / half)
    left, right, cos, sin = x[..., :half], x[..., half:], np.cos(theta), np.sin(theta)
    return 1.2 * plain_norm(np.concatenate([left * cos + right * sin, right * cos - left * sin], -1))


def plain_logits(model: Model, ids: list[int], windows: list[int]) -> np.ndarray:
    """The forward pass as nanochat's gpt.py describes it, in float64; `windows`: tokens back, by layer."""
    w = {name: np.array(array, np.float64) for name, array in flat(model.parameters()).items()}
    x = plain_norm(w["transformer.wte.weight"][ids])
    smeared = x.copy()
    for t in range(1, len(ids)):
        gate = sigmoid(x[t, :24] @ w["smear_gate.weight"][0])
        smeared[t] += w["smear_lambda"] * gate * x[t - 1]
    x = first = smeared
    for layer, window in enumerate(windows):
        x = w["resid_lambdas"][layer] * x + w["x0_lambdas"][layer] * first
        part = {
            name.removeprefix(f"transformer.h.{layer}."): array
            for name, array in w.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        embeds = w.get(f"value_embeds.{layer}.weight")
        x = x + plain_attention(part, plain_norm(x), None if embeds is None else embeds[ids], window)
        x = x + np.maximum(plain_norm(x) @ part["mlp.c_fc.weight"].T, 0) ** 2 @ part["mlp.c_proj.weight"].T
        if layer == len(windows) // 2:
            middle = x
    x = plain_norm(x - w["backout_lambda"] * middle)
    return 15 * np.tanh(x @ w["lm_head.weight"].T / 15)[:, : model.args.vocab_size]


def plain_attention(
    w: dict[str, np.ndarray], h: np.ndarray, embeds: np.ndarray | None, window: int
) -> np.ndarray:
    """Four heads; as many keys and values as there are rows for, each shared by neighbouring heads."""
    length, width = h.shape
    q, k, v = (
        (h @ w[f"attn.{name}.weight"].T).reshape(length, -1, width // 4).swapaxes(0, 1)
        for name in ("c_q", "c_k", "c_v")
    )
    if embeds is not None:
        gate = 3 * sigmoid(h[:, :12] @ w["attn.ve_gate.weight"].T)  # (T, KV)
        v = v + gate.T[..., None] * embeds.reshape(length, len(k), width // 4).swapaxes(0, 1)
    q, k = plain_rotation(q), plain_rotation(k)
    out = np.zeros((length, 4, width // 4))
    for head in range(4):
        own = head * len(k) // 4
        for i in range(length):
            first = max(0, i - window)
            scores = np.exp(k[own, first : i + 1] @ q[head, i] / math.sqrt(width // 4))
            out[i, head] = scores / scores.sum() @ v[own, first : i + 1]
    return out.reshape(length, width) @ w["attn.c_proj.weight"].T


@pytest.mark.parametrize(("args", "windows"), [(SMALL, [128, 128, 512]), (BEYOND, [128, 128, 140])])
def test_logits_equal_a_plain_loop(args: ModelArgs, windows: list[int]) -> None:
    model, ids = small_model(args), some_prompts()[3]
    logits = np.array(model(mx.array([ids]))[0])
    assert np.abs(logits - plain_logits(model, ids, windows)).max() < 2e-5


def test_a_long_window_ends_where_the_originals_does() -> None:
    """The last layer's ends after sequence_len tokens: without an end the logits of the 142nd differ."""
    model, ids = small_model(BEYOND), some_prompts()[3]
    logits = np.array(model(mx.array([ids]))[0])
    apart = np.abs(logits - plain_logits(model, ids, [128, 128, 1000])).max(axis=1)
    assert apart[:141].max() < 2e-5
    assert apart[141:].max() > 1e-3


@needs_genuine
def test_the_originals_weights_beyond_their_sequence_len() -> None:
    model, ids = genuine_model(), np.random.default_rng(0).integers(0, 1000, 700).tolist()
    assert np.load(GENUINE / "logits_fp32.npz")["long.ids"].size < 512  # so the loop stands in for it
    plain = plain_logits(model, ids, [128, 128, 128, 512])
    assert np.abs(np.array(model(mx.array([ids]))[0]) - plain).max() < 1e-4


# --- cache and training ------------------------------------------------------------------------------


def test_the_cache_is_the_kind_that_training_shares() -> None:
    assert has_only_keys(small_model())


@pytest.mark.parametrize("chunk", [None, 7])
def test_rows_in_a_batch_with_a_cache_see_only_their_own_prompt(model: Model, chunk: int | None) -> None:
    prompts, tail = some_prompts(), [3, 1, 4, 1, 5]
    cache = read_prompts(model, prompts, chunk)
    keep(cache, [3, 1, 0, 2, 1])
    rows = [prompts[row] for row in (3, 1, 0, 2, 1)]
    first = model(mx.array([[row[-1], *tail[:2]] for row in rows]), cache=cache)  # several at once …
    then = [model(mx.array([[token]] * 5), cache=cache) for token in tail[2:]]  # … then one by one
    logits = mx.concatenate([first, *then], axis=1)  # (5, 6, V)
    for row, seen in zip(rows, logits, strict=True):
        alone = model(mx.array([row + tail]))[0, len(row) - 1 :]
        assert mx.abs(seen - alone).max().item() < 2e-5


def test_a_cache_can_be_taken_back(model: Model) -> None:
    """mlx-lm's server trims and reuses caches."""
    ids = some_prompts()[3]
    cache = make_prompt_cache(model)
    model(mx.array([ids]), cache=cache)
    for layer in cache:
        layer.trim(20)
    again = model(mx.array([ids[130:]]), cache=cache)[0]
    assert mx.abs(again - model(mx.array([ids]))[0, 130:]).max().item() < 2e-5


def sampled_groups(model: Model) -> list[RolloutGroup]:
    """Three sampled completions of each prompt, of 4 tokens, with advantages."""
    mx.random.seed(3)
    rollouts = generate(policy(model), some_prompts(), 3, Sampling(max_new_tokens=4, temperature=0.8))
    for one in rollouts:
        for item, advantage in zip(one, (1.1, -0.4, -0.7), strict=True):
            item.advantage = advantage
    return [group(prompt, one) for prompt, one in zip(some_prompts(), rollouts, strict=True)]


def test_sampled_logprobs_equal_those_of_training(model: Model) -> None:
    (batch,) = make_microbatches(sampled_groups(model), LOSS_TYPES["grpo"], 4, 12, has_reference=False)
    for share_prefix in (True, False):
        logprobs = token_logprobs(model, batch, 0.8, ForwardPlan(share_prefix))
        assert batch.token_count == 48
        assert (mx.abs(logprobs - batch.old_logprobs) * batch.loss_mask).max().item() < 1e-4


def plain_loss(model: nn.Module, groups: list[RolloutGroup]) -> mx.array:
    """REINFORCE over whole sequences, one after the other, without padding or cache."""
    loss = mx.array(0.0)
    for one in groups:
        for item in one.rollouts:
            ids = one.prompt_ids + item.token_ids
            logits = model(mx.array([ids]))[0, len(one.prompt_ids) - 1 : -1] / 0.8
            chosen = mx.take_along_axis(logits, mx.array(item.token_ids)[:, None], axis=-1).squeeze(-1)
            loss = loss - item.advantage * (chosen - mx.logsumexp(logits, axis=-1)).sum()
    return loss / 48


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_through_the_shared_prompt_equals_that_of_whole_sequences(model: Model, lora: bool) -> None:
    if lora:
        add_adapters(model, LoRA(rank=2))
    groups = sampled_groups(model)
    loss, expected = nn.value_and_grad(model, plain_loss)(model, groups)
    for size, share_prefix, again in (
        (12, True, False),
        (2, True, False),
        (12, False, False),
        (12, True, True),
    ):
        batches = make_microbatches(groups, LOSS_TYPES["reinforce"], 4, size, has_reference=False)
        gradients, result = accumulate(
            model, batches, objective_of("reinforce", 0.8, 0.2, 0.2, 0.0, share_prefix, recompute=again)
        )
        assert result.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
        assert largest_difference(expected, gradients) < 1e-5
    trained = flat(gradients)
    if not lora:
        # Every kind of parameter learns: none is cut off.
        assert all(mx.abs(trained[name]).max().item() > 0 for name in trained)
        rows = model.args.vocab_size
        assert mx.abs(trained["lm_head.weight"][rows:]).max().item() == 0.0


# --- files -------------------------------------------------------------------------------------------


def test_parameters_and_optimizer_state_have_the_same_form_in_a_file() -> None:
    model = small_model()
    optimizer = make_rule(Config())
    optimizer.init(model.trainable_parameters())
    again = tree_unflatten(list(flat(model.parameters()).items()))
    assert again.keys() == model.parameters().keys()
    assert [list(part) for part in again["value_embeds"]] == [["weight"], [], ["weight"]]
    optimizer.state = tree_unflatten(list(flat(optimizer.state).items()))
    before = model.lm_head.weight
    gradients = nn.value_and_grad(model, plain_loss)(model, [group([1, 2], [rollout([3], 1.0)])])[1]
    optimizer.update(model, gradients)
    assert not mx.array_equal(model.lm_head.weight, before)


def test_a_folder_can_carry_the_model_for_plain_mlx_lm(tmp_path: Path) -> None:
    source = small_model(BEYOND)
    config = {**vars(BEYOND), "model_file": "nanochat_v2.py"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "nanochat_v2.py").write_text(Path(nanochat_v2.__file__).read_text())
    mx.save_safetensors(str(tmp_path / "model.safetensors"), flat(source.parameters()))
    loaded, _ = load_model(tmp_path, trust_remote_code=True)
    ids = some_prompts()[3]
    logits = np.array(loaded(mx.array([ids]))[0])
    assert np.abs(logits - plain_logits(source, ids, [128, 128, 140])).max() < 2e-5


def test_windows_and_value_embeddings_by_layer() -> None:
    """Short, short, short, long, and so on; the last one is long whatever its letter."""
    config = replace(SMALL, num_hidden_layers=7, max_position_embeddings=2048)
    assert [config.window(layer) for layer in range(7)] == [512, 512, 512, 2048, 512, 512, 2048]
    assert [config.has_value_embeddings(layer) for layer in range(4)] == [True, False, True, False]
    assert replace(SMALL, max_position_embeddings=600).window(0) == 256  # 150, in whole tiles of 128
