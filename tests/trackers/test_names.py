"""The names at the trackers: TRL's for the values of a real run, whose table is in configs/KEYS.md."""

from pathlib import Path

from grpo_cli.engine.train import train
from grpo_cli.trackers.names import NAMES, name_of, names_table, reported
from tests.support.small_runs import STEP_KEYS, lines, small

ROOT = Path(__file__).parents[2]
# Names of TRL's GRPOTrainer 0.29 and of transformers' Trainer, as a board shows them.
TRLS = {
    "train/epoch", "train/learning_rate", "train/loss", "train/grad_norm", "train/kl", "train/entropy",
    "train/clip_ratio/region_mean", "train/clip_ratio/low_mean", "train/clip_ratio/high_mean",
    "train/reward", "train/reward_std", "train/frac_reward_zero_std", "train/rewards/correctness/mean",
    "train/completions/mean_length", "train/completions/clipped_ratio", "train/step_time",
}  # fmt: skip


def test_a_real_runs_values_have_trls_names(tmp_path: Path) -> None:
    train(small(tmp_path, max_steps=1, eval_steps=1, eval_samples=4, num_generations=4, kl_coeff=0.01))
    first, step, last = lines(tmp_path / "run")
    found = reported(step)
    assert found.keys() >= TRLS
    assert found.keys() - TRLS == {
        "train/ratio_deviation", "train/repetition", "train/rollout_seconds", "train/update_seconds",
        "train/rollout_tokens_per_second", "train/peak_memory_gb", "train/cache_memory_gb", "train/skipped",
    }  # fmt: skip
    for ours in STEP_KEYS - {"step"}:
        assert found[name_of(ours)] == step[ours]
    evaluation = {"eval/accuracy", "eval/samples", "eval/format", "eval/seconds"}
    evaluation |= {"eval/completions/mean_length", "eval/completions/clipped_ratio"}
    assert evaluation <= reported(first).keys() and reported(last)["eval/accuracy"] == last["eval_accuracy"]


def test_every_name_of_the_table_is_a_value_of_the_log() -> None:
    sources = sorted((ROOT / "grpo_cli/engine").rglob("*.py"))
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert [ours for ours in NAMES if f'"{ours}"' not in text] == []
    assert len({*NAMES.values()}) == len(NAMES)


def test_only_finite_numbers_are_reported() -> None:
    line = {
        "step": 3,
        "reward_mean": float("nan"),
        "kl": None,
        "loss": -0.5,
        "skipped": "loss",
        "flags": ["x"],
    }
    assert reported(line) == {"train/loss": -0.5, "train/skipped": 1.0}
    assert reported({"step": 3, "reward_mean": 0.5, "tools/calls_mean": 2}) == {
        "train/reward": 0.5,
        "train/tools/call_frequency": 2.0,
        "train/skipped": 0.0,
    }
    assert reported({"step": 3, "eval_accuracy": 0.5, "eval_right": "01"}) == {"eval/accuracy": 0.5}


def test_the_table_is_in_the_list_of_keys() -> None:
    assert names_table() in (ROOT / "configs/KEYS.md").read_text(encoding="utf-8")
    assert "| `reward_mean` | `train/reward` |\n" in names_table()
    assert "| `rewards/NAME` | `train/rewards/NAME/mean` |\n" in names_table()
