"""The chapter on TRL's defaults: its table says what the keys' defaults are, and no loss key is left out."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.fields import default
from grpo_cli.config.keys_of_the_loss import LossKeys
from grpo_cli.config.schema import Config
from grpo_cli.doctor.chapters import GUIDE, chapters

TEXT = Path(GUIDE / "trl-defaults.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| `([^`]+)` \| (.+) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(TEXT)]
SAME = re.findall(r"`(\w+)`", TEXT.partition("The same defaults:")[2].partition("TRL's None")[0])
# Of trl 1.16.0: GRPOConfig, DPPOConfig of the versions that had it, and transformers' TrainingArguments.
# None is 0 here; rollouts' importance weights are those for vLLM; the KL estimator is k3 without a key.
TRL: dict[str, Any] = {
    "temperature": 1.0, "use_bias_correction_kl": True, "importance_sampling_mode": "sequence_mask",
    "importance_sampling_cap": 3.0, "top_entropy_policy": "current", "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "num_epochs": 3,
    "grad_checkpoint": True, "dtype": "bfloat16", "logging_steps": 10, "save_steps": 500, "seed": 42,
    "loss_type": "dapo", "importance_sampling_level": "token", "advantage_estimator": "grpo",
    "scale_rewards": "group", "clip_eps": 0.2, "clip_eps_high": 0.0, "delta": 0.0,
    "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05, "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0, "divergence_type": "binary_tv", "clip_ratio_c": 20.0,
    "off_policy_mask_threshold": 0.0, "kl_coeff": 0.0, "kl_estimator": "k3", "sync_ref_model": False,
    "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 512, "entropy_coeff": 0.0,
    "use_adaptive_entropy": False, "entropy_target": 0.2, "entropy_coeff_delta": 0.005,
    "entropy_coeff_min": 0.0, "entropy_coeff_max": 1.0, "top_entropy_quantile": 1.0,
    "mask_truncated_completions": False, "importance_sampling_clip_min": 0.0, "num_iterations": 1,
    "num_generations": 8, "max_new_tokens": 512, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "learning_rate": 1e-6, "adam_beta1": 0.9, "adam_beta2": 0.999,
    "weight_decay": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(("key", "here", "there", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_has_both_defaults_and_a_reason(key: str, here: str, there: str, reason: str) -> None:
    ours, theirs = (tomllib.loads(f"v = {value}")["v"] for value in (here, there))
    assert ours == default(key)
    assert theirs == TRL[key] != ours
    assert reason.endswith(".")


@pytest.mark.parametrize("key", SAME)
def test_the_same_defaults_are_the_same(key: str) -> None:
    assert default(key) == TRL[key]


def test_every_key_is_there_once() -> None:
    named = [row[0] for row in ROWS] + SAME
    assert sorted(named) == sorted(TRL)
    assert set(named) <= set(Config.model_fields)
    assert set(LossKeys.model_fields) == {*named, "kl_reference", "router_aux_loss_coef"} & {
        *LossKeys.model_fields
    }


def test_a_terminal_shows_a_row_a_line() -> None:
    lines = chapters()["trl-defaults"].how.splitlines()
    assert "key · here · TRL 1.16 · reason" in lines
    assert "`num_epochs` · `1` · `3` · MLX-GRPO's." in lines
