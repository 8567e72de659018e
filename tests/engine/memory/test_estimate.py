"""The memory estimate of a run, against numbers by hand and measured ones."""

import dataclasses
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.cpu.block_sizes import SCORES
from grpo_cli.engine import setup
from grpo_cli.engine.memory.check import needs_of
from grpo_cli.engine.memory.estimate import (
    FLOAT32,
    BatchSizes,
    Shape,
    estimate,
    rollout_bytes,
    steps_down,
    update_bytes,
    updated_at_once,
)
from grpo_cli.engine.rollout.continuous_batch import Decoding
from grpo_cli.engine.rollout.rows import CompletionRow, RowRandom
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.rollout.shared_prompt import reads_in_groups
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.models.batch_plan import BatchPlan
from tests.support.small_runs import small
from tests.support.steps import scored_groups

SHAPE = Shape(layers=2, hidden=8, intermediate=16, heads=2, kv_width=4, vocabulary=100)
BATCH = BatchSizes(rollout_rows=6, update_prompts=1, update_rows=3, prompt_length=5, new_tokens=10)


def test_a_shape_from_config_json() -> None:
    config = {
        "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152,
    }  # fmt: skip
    expected = Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_width=192, vocabulary=49152)
    assert Shape.of(config, on_cpu=False) == expected
    assert Shape.of(config) == dataclasses.replace(expected, keeps_scores=False)
    wide = {**config, "head_dim": 128}
    assert Shape.of(wide, on_cpu=False) == dataclasses.replace(expected, kv_width=384)
    assert Shape.of({"text_config": config, "vocab_size": 1}, on_cpu=False) == expected
    assert Shape.of({"hidden_size": 576}) is None


def test_rollouts_by_hand() -> None:
    """6 rows: keys and values of 2 layers, 4 channels, 15 tokens, twice; logits of 100 tokens, 4 times."""
    assert rollout_bytes(SHAPE, BATCH, width=2) == 6 * (2 * 2 * 2 * 4 * 15 * 2 + 4 * 100 * 4)


def test_rollouts_in_groups_by_hand() -> None:
    """2 prompts of 5 tokens, each once; 6 rows of 10 tokens, for which memory of 64 is taken, 1.3 times."""
    grouped = dataclasses.replace(BATCH, rollout_prompts=2)
    per_token = 2 * 2 * 4 * 2  # keys and values of 2 layers, 4 channels, 2 bytes
    own = 1.3 * 6 * 64 * per_token + 6 * 4 * 100 * 4
    assert rollout_bytes(SHAPE, grouped, width=2) == int(2 * 5 * per_token + own)
    longer = dataclasses.replace(grouped, new_tokens=65)
    own = 1.3 * 6 * 128 * per_token + 6 * 4 * 100 * 4
    assert rollout_bytes(SHAPE, longer, width=2) == int(2 * 5 * per_token + own)


def test_reading_long_prompts_in_groups_by_hand() -> None:
    """2 of 3000 tokens, 2048 at once: scores of 2 heads and 16 channels for each, twice."""
    grouped = dataclasses.replace(BATCH, rollout_prompts=2, prompt_length=3000)
    reading = 2 * 2048 * (2 * 3000 + 16) * 2
    assert rollout_bytes(SHAPE, grouped, width=2) == 2 * 3000 * 2 * 2 * 4 * 2 + reading


def test_blocks_of_scores_are_not_counted() -> None:
    """On a CPU in float32: neither in the update nor while prompts are read; in bfloat16 they are."""
    shape = dataclasses.replace(SHAPE, keeps_scores=False)
    grouped = dataclasses.replace(BATCH, rollout_prompts=2, prompt_length=3000)
    reading = (5 * SCORES + 2 * 2048 * 16) * 4
    assert rollout_bytes(shape, grouped, width=4) == 2 * 3000 * 2 * 2 * 4 * 4 + reading
    assert rollout_bytes(shape, grouped, width=2) == rollout_bytes(SHAPE, grouped, width=2)
    scores, results = 2 * 2 * (30 * 15 + 5 * 5), 2 * 2 * 35  # a result and a sum for every head and token
    found = update_bytes(SHAPE, BATCH, width=4) - update_bytes(shape, BATCH, width=4)
    block = 2 * 3 * 10 * 15  # all completions' scores of a layer, which are less than a block
    assert found == 4 * (2 * (scores - results) - 5 * block)


def test_prompts_at_once_in_groups() -> None:
    config = Config(num_generations=4, batch_size=2, gradient_accumulation_steps=3)
    assert BatchSizes.of(config, 21, True, True).rollout_prompts == 0
    assert BatchSizes.of(config, 21, True, True, in_groups=True).rollout_prompts == 6
    assert BatchSizes.of(config, 21, True, True, rows=5, in_groups=True).rollout_prompts == 2  # 4 rows and 1


@pytest.mark.skipif(device.prepare().kind != "cpu", reason="groups are a CPU's")
@pytest.mark.parametrize(("rows", "prompt", "new"), [(16, 200, 32), (32, 16, 80), (2, 480, 8)])
def test_the_estimate_of_grouped_rollouts_is_near_what_is_measured(rows: int, prompt: int, new: int) -> None:
    """Within 0.85 and 1.4 of the peak above the weights: long prompts, long completions, and reading."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "vocab_size": 512}
    facts = {**sizes, "num_hidden_layers": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}
    model = llama.Model(llama.ModelArgs(model_type="llama", **facts))
    mx.eval(model.parameters())
    shape = Shape.of(facts)
    assert shape is not None
    assert reads_in_groups(model)
    policy: Any = SimpleNamespace(
        model=model, plan=BatchPlan(), tokenizer=SimpleNamespace(eos_ids=frozenset())
    )
    sampling = Sampling(max_new_tokens=new)
    prompts = [
        CompletionRow(index=index, prompt=[1 + index // (rows // 2)] * prompt) for index in range(rows)
    ]
    dice = RowRandom(rows, sampling)
    text: Any = SimpleNamespace(tokenizer=policy.tokenizer, stops=())  # nothing stops on a text
    mx.clear_cache()
    gc.collect()  # what earlier tests left must not be freed within the measurement
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    Decoding(policy, sampling, dice, prompts, rows, lambda: None, text).run()
    measured = mx.get_peak_memory() - before
    batch = BatchSizes(
        rollout_rows=rows,
        update_prompts=1,
        update_rows=rows,
        prompt_length=prompt,
        new_tokens=new,
        rollout_prompts=2,
    )
    assert 0.85 < rollout_bytes(shape, batch, FLOAT32) / measured < 1.4


def test_an_update_by_hand() -> None:
    """3 rows of 10 tokens after a prompt of 5 that is read once; logits for completion tokens only."""
    tokens = 30 + 5
    scores = 2 * 2 * (30 * 15 + 5 * 5)
    rows = 3 * 2 * 2 * 4 * 15
    layers = 2 * 2 * ((7 * 8 + 2.5 * 16 + 4 * 4) * tokens + scores + rows)
    assert update_bytes(SHAPE, BATCH, width=2) == layers + 3 * 4 * 30 * 100
    checkpointed = dataclasses.replace(BATCH, checkpoint=True)
    inputs = 2 * 2 * (8 * tokens + 2 * 4 * 5)  # of 2 layers; then all of a layer, twice
    assert update_bytes(SHAPE, checkpointed, width=2) == inputs + layers + 3 * 4 * 30 * 100
    with_bonus = dataclasses.replace(BATCH, entropy_bonus=True)
    assert update_bytes(SHAPE, with_bonus, width=2) == layers + 7.5 * 4 * 30 * 100


def test_what_is_updated_at_once_by_hand() -> None:
    """A budget of 200 tokens, completions of 10, prompts of 21 of which 20 are read beforehand."""
    config = Config(num_generations=4, max_new_tokens=10, batch_size=2, gradient_accumulation_steps=5)
    assert updated_at_once(config, 21, shared_prefix=True) == (2, 8)
    budget = config.model_copy(update={"microbatch_tokens": 200})
    assert updated_at_once(budget, 21, shared_prefix=True) == (4, 12)  # 4 · 20 + 12 · 10; 3 groups are 180
    assert updated_at_once(budget, 21, shared_prefix=False) == (6, 6)  # 30 each
    least = config.model_copy(update={"microbatch_tokens": 5})
    assert updated_at_once(least, 21, shared_prefix=True) == (1, 1)
    most = config.model_copy(update={"microbatch_tokens": 100_000})
    assert updated_at_once(most, 21, shared_prefix=True) == (10, 40)
    assert BatchSizes.of(budget, 21, True, True).microbatches == 2
    assert BatchSizes.of(most, 21, True, True).microbatches == 1
    assert BatchSizes.of(budget, 21, True, True, rows=3).update_rows == 3


def test_a_smaller_budget_is_the_first_cure() -> None:
    config = Config(microbatch_tokens=2048, batch_size=2)
    assert list(steps_down(config))[:3] == [
        {"microbatch_tokens": 1024}, {"microbatch_tokens": 512}, {"max_new_tokens": 256},
    ]  # fmt: skip


def test_the_peak_is_the_larger_of_what_comes_in_turn() -> None:
    needs = estimate(SHAPE, BATCH, weights=10_000, optimizer=20_000, trained=100, width=2)
    assert (needs.gradients, needs.step) == (400, 600)
    assert needs.peak == 30_000 + max(needs.rollouts, 400 + needs.update, 600)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_rank": 4},
        {"lora_rank": 4, "lora_type": "dora"},
        {"kl_coeff": 0.1},
        {"batch_size": 2},
        {"entropy_coeff": 0.1},
        {"microbatch_tokens": 300},
        {"grad_checkpoint": True},
    ],
)
def test_the_estimate_is_near_what_is_measured(tmp_path: Path, changes: dict[str, Any]) -> None:
    """From half to twice as much; `python -m tests.bench.memory` prints the ratios of larger models."""
    settings = {"batch_size": 4, "max_new_tokens": 32, "temperature": 2.0}
    gc.collect()
    before = mx.get_active_memory()  # what earlier tests keep
    run = setup.prepare(small(tmp_path, **{**settings, **changes}))
    needs = needs_of(run)
    assert needs is not None
    mx.random.seed(0)
    groups = scored_groups(run)
    for group in groups:
        for index, rollout in enumerate(group.rollouts):
            rollout.advantage = 1.0 if index % 2 else -1.0
    update_policy(run, 1, make_batches(run, groups))
    mx.clear_cache()
    mx.reset_peak_memory()
    update_policy(run, 2, make_batches(run, groups))
    assert 0.5 < needs.update_peak / (mx.get_peak_memory() - before) < 2
