"""The memory of layers with a state: sizes from config.json, numbers by hand, and measured peaks."""

import dataclasses
import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.doctor.read.config_memory import shape_of
from grpo_cli.engine import setup
from grpo_cli.engine.memory.check import needs_of
from grpo_cli.engine.memory.estimate import BatchSizes, Shape, rollout_bytes, update_bytes
from grpo_cli.engine.memory.state_layers import DELTA_CHUNK, States, states_in
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.models.gated_delta import CHUNK, CHUNKS
from tests.support.small_runs import small
from tests.support.steps import scored_groups
from tests.support.wide_kinds import write_wide

DELTA = {"linear_num_value_heads": 8, "linear_num_key_heads": 4, "linear_key_head_dim": 32,
         "linear_value_head_dim": 16}  # fmt: skip
MAMBA = {"num_heads": 8, "head_dim": 64, "state_size": 16}
ATTENDED = Shape(layers=2, hidden=8, intermediate=16, heads=2, kv_width=4, vocabulary=100)
STATES = States(layers=1, replaced=1, heads=2, width=12, state=20)
BATCH = BatchSizes(rollout_rows=6, update_prompts=1, update_rows=3, prompt_length=5, new_tokens=10)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({**DELTA, "full_attention_interval": 4}, (9, 9, 8, 2 * 128 + 128, 8 * 32 * 16)),
        ({**DELTA, "layer_types": ["linear_attention", "full_attention"] * 6}, (6, 6, 8, 384, 4096)),
        (MAMBA, (12, 12, 8, 512, 512 * 16)),
        (
            {
                "mamba_n_heads": 8,
                "mamba_d_head": 64,
                "mamba_d_state": 16,
                "layer_types": ["mamba", "attention"],
            },
            (1, 1, 8, 512, 8192),
        ),
        (
            {
                "mamba_num_heads": 8,
                "mamba_head_dim": 64,
                "ssm_state_size": 16,
                "hybrid_override_pattern": "M-M*",
            },
            (2, 2, 8, 512, 8192),
        ),
        (
            {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 16, "model_type": "falcon_h1"},
            (12, 0, 8, 512, 8192),
        ),
    ],
)
def test_sizes_in_config_json(config: dict[str, Any], expected: tuple[int, ...]) -> None:
    found = states_in(config, 12, on_cpu=True)
    assert found is not None
    assert (found.layers, found.replaced, found.heads, found.width, found.state) == expected
    assert found.delta_chunk == (16 if "linear_num_value_heads" in config else 0)


def test_attention_alone_has_none() -> None:
    for config in ({}, {"layer_types": ["full_attention", "sliding_attention"]}, {"num_heads": 4}):
        assert states_in(config, 12, on_cpu=True) is None


def test_chunks_are_those_of_the_forward() -> None:
    assert (DELTA_CHUNK[True], DELTA_CHUNK[False]) == (CHUNKS["cpu"], CHUNK)


def test_numbers_of_a_token_by_hand() -> None:
    assert STATES.numbers_per_token(10) == pytest.approx(12.6 * 12 + 2.5 * 2 * 10)
    assert STATES.numbers_per_token(1000) == pytest.approx(12.6 * 12 + 2.5 * 2 * 256)
    assert STATES.numbers_at_once(100.0, rows=3, length=1000) == pytest.approx(1.4 * 100 + 3 * 256 * 20)
    delta = dataclasses.replace(STATES, delta_chunk=16)
    assert delta.numbers_per_token(10) == pytest.approx(8.7 * 12 + 14.5 * 2 * 16 + 2.8 * 20 / 16)
    assert delta.numbers_at_once(100.0, rows=3, length=10) == pytest.approx(56.0)


def test_a_model_of_both_by_hand() -> None:
    """One of the two layers has a state: it has no keys, and its state is as long as ever."""
    hybrid = dataclasses.replace(ATTENDED, states=STATES)
    logits = 6 * 4 * 100 * 4
    keys = 2 * 1 * 4 * 2 * 15
    assert rollout_bytes(hybrid, BATCH, width=2) == int(6 * (2 * keys + 1.8 * 4 * 1 * 20) + logits)
    both, one = (update_bytes(shape, BATCH, width=2) for shape in (ATTENDED, hybrid))
    attention = 2 * (4 * 4 * 35 + 2 * 2 * (30 * 15 + 5 * 5) + 3 * 2 * 2 * 4 * 15)
    kept = STATES.numbers_per_token(10) * 30 + STATES.numbers_per_token(5) * 5
    states = 2 * kept + 4 * 3 * 2 * 20 + 2 * (1.4 * kept + 3 * 10 * 20)
    assert one == int(both - attention + states)


def test_a_model_of_states_alone_has_a_shape(tmp_path: Path) -> None:
    """Mamba-2's config.json names neither heads of attention nor feed-forward layers."""
    facts = {"num_hidden_layers": 4, "hidden_size": 256, "vocab_size": 320, **MAMBA}
    shape = Shape.of(facts)
    assert shape is not None
    assert (shape.attention_layers, shape.heads, shape.intermediate) == (0, 0, 0)
    (tmp_path / "config.json").write_text(str(facts).replace("'", '"'))
    assert shape_of(tmp_path) == shape


@pytest.mark.parametrize("kind", ["qwen3_5", "mamba2"])
def test_the_estimate_is_near_what_is_measured(kind: str, tmp_path: Path) -> None:
    """From 0.6 to 1.7 times as much; `python -m tests.bench.memory --kind mamba2` prints more."""
    folder = write_wide(kind, tmp_path / "model")
    run = setup.prepare(small(tmp_path, model_name=str(folder), max_new_tokens=32, temperature=2.0))
    needs = needs_of(run)
    assert needs is not None
    peaks = []
    for step in (1, 2):  # the second one has the optimizer's state from the beginning
        gc.collect()
        mx.clear_cache()
        mx.reset_peak_memory()
        groups = scored_groups(run, step * run.config.prompts_per_step)
        peaks = [mx.get_peak_memory()]
        for index, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
            rollout.advantage = 1.0 if index % 2 else -1.0
        mx.clear_cache()
        mx.reset_peak_memory()
        update_policy(run, step, make_batches(run, groups))
        peaks.append(mx.get_peak_memory())
    run.close()
    assert 0.6 < needs.rollout_peak / peaks[0] < 1.7
    assert 0.6 < needs.update_peak / peaks[1] < 1.7
