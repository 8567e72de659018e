"""Kinds of runs, each interrupted twice and resumed: the same as uninterrupted, byte for byte on a CPU."""

from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from tests.support.interruptions import crash, interrupt_after
from tests.support.small_runs import SHORT, lines, log_without_times, small, weights

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora_rank": 2},
    "dora and kl": {"lora_rank": 2, "lora_type": "dora", "kl_coeff": 0.1, "learning_rate": 1e-3},
    "rewards in processes": {"reward_workers": 2},
    "rslora": {"lora_rank": 2, "use_rslora": True},
    "accumulation": {"batch_size": 1, "gradient_accumulation_steps": 2},
    "kl": {"kl_coeff": 0.1},
    "lora and kl": {"lora_rank": 2, "lora_layers": 2, "kl_coeff": 0.1},
    "several updates": {"num_iterations": 3},
    "several updates and kl": {"num_iterations": 2, "kl_coeff": 0.1, "loss_type": "grpo"},
    "several updates by sequence": {
        "num_iterations": 3,
        "loss_type": "gspo",
        "kl_coeff": 0.1,
        "use_bias_correction_kl": True,
        "clip_eps": 1e-3,
    },
    "filters": {
        "num_iterations": 2,
        "loss_type": "bnpo",
        "top_entropy_quantile": 0.5,
        "entropy_coeff": 0.01,
        "mask_truncated_completions": True,
        "soft_overlong_tokens": 6,
        "max_new_tokens": 40,
    },
    "several updates and a cut tail": {"num_iterations": 3, "top_k": 20, "min_p": 0.01},
    "half precision": {"dtype": "bfloat16"},
    "quantized rollouts": {"quantize_for_rollouts": True, "group_size": 32},
    "quantized rollouts of adapters": {"quantize_for_rollouts": True, "lora_rank": 2, "lora_type": "dora"},
    "quantized rollouts, several updates": {
        "quantize_for_rollouts": True,
        "bits": 3,
        "num_iterations": 3,
        "kl_coeff": 0.1,
        "top_k": 20,
        "importance_sampling_mode": "sequence_mask",
    },
    "quantized rollouts, steps of one generation": {
        "quantize_for_rollouts": True,
        "bits": 3,
        "steps_per_generation": 2,
        "dynamic_sampling": True,
        "loss_type": "gspo",
    },
    "sgd": {"optimizer": "sgd"},
    "lion": {"optimizer": "lion"},
    "evaluation": {"eval_steps": 2, "eval_samples": 4},
}


def check_resumed(variant: str, tmp_path: Path, **changes: Any) -> None:
    """Interrupt twice: by a crash inside a step, which loses it, and by Ctrl-C, which does not."""
    settings = {**SHORT, **VARIANTS[variant], **changes}
    whole = small(tmp_path, run_name="whole", save_steps=2, **settings)
    train(whole)
    broken = small(tmp_path, run_name="broken", save_steps=2, **settings)
    crash(broken, 3)
    assert read_state(broken.run_dir / "checkpoint-2")[0].step == 2
    with pytest.raises(KeyboardInterrupt):
        resume(broken.run_dir, [], interrupt_after(5))
    assert resume(broken.run_dir) == (broken.run_dir / "final").absolute()
    assert log_without_times(broken.run_dir) == log_without_times(whole.run_dir)
    assert weights(broken.run_dir) == weights(whole.run_dir)
    completions = [folder / "completions.jsonl" for folder in (whole.run_dir, broken.run_dir)]
    assert completions[0].read_bytes() == completions[1].read_bytes()
    assert all(line["grad_norm"] > 0 for line in lines(whole.run_dir) if "grad_norm" in line)
