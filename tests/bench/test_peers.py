"""The peers written by hand and the report of all of them; none is measured."""

import io
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console

from tests.bench.peers import by_hand, environment, report
from tests.bench.peers.job import LETTERS, Job, Problem, score

SEQUENCES = [([1], [0, 1, 0]), ([1, 1, 0], [1])]  # prompt and completion


class Constant(nn.Module):
    """A model of two tokens whose logits are its two weights, wherever they stand."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = mx.zeros(2)

    def __call__(self, ids: mx.array) -> mx.array:
        return mx.broadcast_to(self.logits, (*ids.shape, 2))


@pytest.mark.parametrize("gradient", [by_hand.sequential_gradient, by_hand.batched_gradient])
def test_the_gradient_is_that_of_a_policy_gradient_by_hand(gradient: by_hand.Gradient) -> None:
    """∂ log π(token)/∂ logits is onehot − (½, ½): on average (1/6, −1/6), then (−½, ½)."""
    gradients = gradient(Constant(), SEQUENCES, [1.5, -1.0])
    expected = [(-1.5 * 1 / 6 + 1.0 * -0.5) / 2, (1.5 * 1 / 6 + 1.0 * 0.5) / 2]
    assert gradients["logits"].tolist() == pytest.approx(expected)


def test_an_empty_completion_has_no_gradient() -> None:
    gradients = by_hand.sequential_gradient(Constant(), [([1], []), ([1], [1])], [1.0, -1.0])
    assert gradients["logits"].tolist() == pytest.approx([-0.25, 0.25])


def test_advantages_compare_within_a_group() -> None:
    found = by_hand.advantages([0.0, 2.0, 1.0, 1.0], 2)
    assert found == pytest.approx([-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4), 0.0, 0.0])


def test_a_text_is_tokenised_again_behind_its_prompt() -> None:
    class Letters:
        """A token a letter."""

        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            assert not add_special_tokens
            return [ord(letter) for letter in text]

    assert by_hand.tokenised_again(Letters(), [65, 66], "CD") == ([65, 66], [67, 68])


def test_rewards_are_those_of_the_engine() -> None:
    problems = [Problem(ids=[1], question="What is 1 + 2?", answer="3")] * 2
    assert score("correctness", problems, ["<answer>3</answer>", "3"]) == [2.0, 0.0]
    assert score(LETTERS, problems, ["A", "B"]) == pytest.approx([0.651, 0.661])


def test_a_job_travels_as_json(tmp_path: Path) -> None:
    problems = [Problem(ids=[number], question="?", answer=str(number)) for number in range(4)]
    job = Job(
        model="m", dataset="d", dataset_config="", reward="correctness", prompts=2, generations=2,
        new_tokens=4, steps=2, learning_rate=0.1, samples=0, alike=True, training=problems,
    )  # fmt: skip
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert job.step(1) == problems[2:]


def test_the_environment_has_our_versions() -> None:
    trainer, mlx, mlx_lm, *_ = environment.requirements()
    assert trainer == "mlx-lm-lora==5.10.2"
    assert mlx.startswith("mlx") and mlx.endswith(f"=={metadata.version('mlx')}")
    assert mlx_lm == f"mlx-lm=={metadata.version('mlx-lm')}"


def recorded(seconds: list[float], rewards: list[float], blas: str) -> dict[str, Any]:
    return {
        "seconds": seconds, "cpu_seconds": seconds, "rewards": rewards, "tokens": [4.0] * len(seconds),
        "peak_memory_gb": 0.5, "accuracy": 0.75, "blas": {"name": blas}, "versions": {},
    }  # fmt: skip


def test_the_table() -> None:
    rising, flat = [0.0, 0.1, 0.5, 0.5, 0.9, 1.0], [0.5, 0.4, 0.5, 0.5, 0.4, 0.5]
    ours = [recorded([9.0, 1.0, 2.0, 2.0, 2.0, 9.0], rising, "openblas")]
    rounds = [recorded([9.0, 3.0, 3.0, 3.0, 3.0, 3.0], flat, "mlx")] * 2
    result = {
        "job": {"model": "tiny", "dataset": "arithmetic", "prompts": 2, "generations": 4, "new_tokens": 8,
                "steps": 6},
        "parameters": 900_000,
        "accuracy": 0.5,
        "peers": {"grpo": report.summary(ours), "one by one": report.summary(rounds),
                  "mlx_lm": {"failed": "no model", "log": "…"}},
    }  # fmt: skip
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report.table(result))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "tiny (0.9 M), arithmetic: 2 × 4 completions of up to 8 tokens, 6 steps"
    assert "│ grpo │ 2.000 │ 2.000 │ 1.00 │ 4.0 │ 0.50 │ 0.05 → 0.95 │ yes │ 75% │" in lines
    assert "│ one by one │ 3.000 │ 3.000 │ 1.50 │ 4.0 │ 0.50 │ 0.45 → 0.45 │ no │ 75% │" in lines
    caption = " ".join(lines[lines.index(next(line for line in lines if line.startswith("└"))) + 1 :]).strip()
    assert caption == (
        "accuracy before: 50%; BLAS: openblas (grpo), mlx (one by one); mlx_lm failed: no model"
    )
