"""The state of a run: values that JSON lacks come back from it as they were."""

import datetime
import decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet

from grpo_cli.engine.resume import resume
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.engine.train import train
from tests.support.small_runs import SHORT, log_without_times, small

TYPED = """
import datetime, decimal

def typed(completions, created, day, price, image, share, **columns):
    assert all(isinstance(value, datetime.datetime) and value.tzinfo for value in created)
    assert all(type(value) is datetime.date for value in day)
    assert all(isinstance(value, decimal.Decimal) for value in price)
    assert all(isinstance(value, bytes) for value in image)
    assert all(value != value for value in share)
    return [(len(text[0]["content"]) + when.day + float(cost)) % 5
            for text, when, cost in zip(completions, created, price)]
"""


def typed_rows(file: Path) -> None:
    """A Parquet file with columns that JSON has no values for."""
    rows = [
        {
            "question": f"What is {number} + 1?",
            "answer": str(number + 1),
            "created": datetime.datetime(2026, 1, number + 1, tzinfo=datetime.UTC),
            "day": datetime.date(2026, 1, number + 1),
            "price": decimal.Decimal("1.50") * number,
            "image": b"\x89PNG",
            "share": float("nan"),
        }
        for number in range(6)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def test_rewards_get_the_same_values_after_a_resume_in_the_middle_of_rollouts(tmp_path: Path) -> None:
    typed_rows(tmp_path / "train.parquet")
    (tmp_path / "mine.py").write_text(TYPED)
    settings = {"num_iterations": 2, "save_steps": 1, "max_steps": 4, "keep_checkpoints": 9, "num_epochs": 9}
    settings |= {
        "dataset": str(tmp_path / "train.parquet"),
        "reward_functions": [f"{tmp_path}/mine.py:typed"],
    }
    config = small(tmp_path, **{**SHORT, **settings})
    final = train(config)
    weights, log = (final / "model.safetensors").read_bytes(), log_without_times(config.run_dir)
    assert read_state(config.run_dir / "checkpoint-1")[1]  # rollouts that the next step learns from
    resume(config.run_dir / "checkpoint-1")
    assert (final / "model.safetensors").read_bytes() == weights
    assert log_without_times(config.run_dir) == log
