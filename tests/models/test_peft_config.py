"""Ranks and scales of PEFT's adapter_config.json, by hand and as PEFT matches patterns."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.errors import ModelError
from grpo_cli.models.peft_config import PeftConfig, parse_peft_config
from grpo_cli.untrusted_json import DamagedFile

PLAIN = {"peft_type": "LORA", "base_model_name_or_path": "m", "r": 4, "lora_alpha": 12}


def parsed(**settings: Any) -> PeftConfig:
    return parse_peft_config({**PLAIN, **settings}, Path("p"))


def test_scales_by_hand() -> None:
    assert parsed().scale_of("model.layers.0.mlp.up_proj", 4) == 3.0  # 12 / 4
    assert parsed(use_rslora=True).scale_of("x", 4) == 6.0  # 12 / √4
    alphas = parsed(alpha_pattern={"up_proj": 5}, use_rslora=True)
    assert alphas.scale_of("model.layers.0.mlp.up_proj", 2) == 5 / math.sqrt(2)


@pytest.mark.parametrize(
    ("pattern", "module", "fits"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", True),
        ("q_proj", "model.layers.0.self_attn.xq_proj", False),  # a whole part of the path
        ("0.self_attn.q_proj", "model.layers.10.self_attn.q_proj", False),
        (r".*layers\.[0-1]\..*q_proj", "model.layers.1.self_attn.q_proj", True),
        (r"^model\.layers\.1\.mlp\.up_proj", "model.layers.1.mlp.up_proj", True),
        (r"(q|v)_proj", "model.layers.1.self_attn.v_proj", True),
    ],
)
def test_patterns_fit_as_in_peft(pattern: str, module: str, fits: bool) -> None:
    assert parsed(rank_pattern={pattern: 9}).rank_of(module) == (9 if fits else 4)


@pytest.mark.parametrize("pattern", ["(a*)*b", "a*a*a*a*b", "(", "(?=a)b", "a" * 201])
def test_patterns_that_could_take_minutes_are_refused(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ModelError, match="cannot be converted exactly"):
        parsed(rank_pattern={pattern: 2}).rank_of("a" * 60)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 0}, "`r` = 0"),
        ({"r": "8"}, "`r` = "),
        ({"lora_alpha": float("nan")}, "`lora_alpha`"),
        ({"rank_pattern": [1]}, "`rank_pattern`"),
        ({"alpha_pattern": {"q": "x"}}, r"`alpha_pattern\.q`"),
        ({"base_model_name_or_path": None}, "`base_model_name_or_path`"),
    ],
)
def test_damaged_values_are_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(DamagedFile, match=told):
        parsed(**settings)
