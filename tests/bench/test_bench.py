"""The benchmark's arithmetic, and that it runs: no number of it is asserted."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer import Exit

from grpo_cli.config.schema import Config
from grpo_cli.engine.update.batch import TrainingSequence, pad
from grpo_cli.engine.update.forward import token_logprobs
from tests.bench import measure, table, updates, versus
from tests.bench.__main__ import main
from tests.support.gradients import largest_difference
from tests.support.random_models import VOCAB, nanochat_policy

PARTS = ("rollout", "batch_generate", "update", "forward_backward", "step")
UPDATE_PARTS = ("update", "gradient", "prefix_shared", "whole_sequences")


def test_the_median_of_the_repeats_counts_and_the_warm_up_does_not() -> None:
    waits, order = iter([0.2, 0.02, 0.001, 0.05]), []

    def wait() -> None:
        order.append("a")
        time.sleep(next(waits))

    times = measure.timed({"a": wait, "b": lambda: order.append("b")}, repeats=3)
    assert 0.02 <= times["a"][0] < 0.05
    assert order == ["a", "b"] * 4  # in turns


def test_tokens_per_second_in_the_json() -> None:
    assert measure.Measurement(0.5, 32, 0.25).as_dict() == {
        "seconds": 0.5,
        "tokens": 32,
        "peak_memory_gb": 0.25,
        "tokens_per_second": 64.0,
    }


def test_every_part_is_given_the_same_tokens(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    main(prompts=2, generations=2, new_tokens=5, repeats=1, json_file=file)
    result = json.loads(file.read_text())
    assert [result[part]["tokens"] for part in ("rollout", "batch_generate", "step")] == [20, 20, 20]
    assert result["update"]["tokens"] == result["forward_backward"]["tokens"]
    # Rows of a microbatch are one prompt's: prompt + 5 tokens, without the last one, two of each.
    assert result["update"]["tokens"] == 2 * sum(length + 4 for length in result["prompt_tokens"])
    assert result["rollout_speedup"] == result["batch_generate"]["seconds"] / result["rollout"]["seconds"]
    assert result["update_overhead"] == result["update"]["seconds"] / result["forward_backward"]["seconds"]
    assert all(result[part]["peak_memory_gb"] > 0 for part in PARTS)
    assert [case["prompt_tokens"] for case in result["updates"]] == [83, 200]


def test_updates_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    main(generations=3, new_tokens=5, repeats=1, updates_only=True, json_file=file)
    result = json.loads(file.read_text())
    assert not set(PARTS) & result.keys()
    assert result["model"] == "tiny"
    for case in result["updates"]:
        assert (case["generations"], case["new_tokens"]) == (3, 5)
        seconds = {part: case[part]["seconds"] for part in UPDATE_PARTS}
        assert [case[part]["tokens"] for part in UPDATE_PARTS] == [15] * 4
        assert case["update_over_prefix_shared"] == seconds["update"] / seconds["prefix_shared"]
        assert case["gradient_over_prefix_shared"] == seconds["gradient"] / seconds["prefix_shared"]
        assert case["gradient_over_whole_sequences"] == seconds["gradient"] / seconds["whole_sequences"]
        assert all(case[part]["peak_memory_gb"] > case["resting_memory_gb"] > 0 for part in UPDATE_PARTS)
    assert capsys.readouterr().err.count("its gradient alone") == 2


def test_both_yardsticks_are_the_gradient_of_the_same_loss() -> None:
    policy = nanochat_policy()
    random_one = updates.random_group(Config(num_generations=3, max_new_tokens=5), 9, VOCAB)
    batch = pad([TrainingSequence(random_one.prompt_ids, one, 1 / 15) for one in random_one.rollouts])
    shared, gradients = updates.prefix_shared(policy.model, batch)
    loss, expected = updates.whole(policy.model, batch)
    logprobs = token_logprobs(policy.model, batch, 1.0)
    assert logprobs.shape == (3, 5)
    assert shared.item() == pytest.approx(loss.item(), rel=1e-5)
    assert loss.item() == pytest.approx(-logprobs.mean().item(), rel=1e-5)
    assert largest_difference(expected, gradients) < 1e-5


def test_the_table_of_an_update() -> None:
    part = {"seconds": 1.25, "tokens": 512, "tokens_per_second": 409.6, "peak_memory_gb": 2.5}
    case: dict[str, Any] = {
        "prompt_tokens": 200, "generations": 8, "new_tokens": 64, "resting_memory_gb": 1.5,
        "update_over_prefix_shared": 1.2, "gradient_over_prefix_shared": 1.05,
        "gradient_over_whole_sequences": 0.4, **dict.fromkeys(UPDATE_PARTS, part),
    }  # fmt: skip
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table.update_table({"model": "tiny"}, case))
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert lines[0] == "tiny: prompt 200, 8 completions of 64 tokens"
    assert "│ its gradient alone                          │   1.250 │    2.50 │          1.00 │" in lines
    caption = " ".join(lines[lines.index(next(line for line in lines if line.startswith("└"))) + 1 :])
    assert caption == (
        "gradient 1.05 × prompt read once (goal 1.10), 0.40 × whole sequences; with the optimizer 1.20 ×"
    )


def test_the_table_of_a_decoding_step() -> None:
    ours = {
        "calls": 347.0, "nodes": 845.4, "late_nodes": 0.0, "bytes_read": 9.2e6, "host_seconds": 0.0021,
        "evaluations": {"tolist": 3.0, "async_eval": 1.0},
    }  # fmt: skip
    counted = {"rows": 32, "least_bytes": 5_812_224, "rollout": ours, "batch_generate": ours}
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(table.counts_table({"model": "tiny", "decoding": counted}))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "tiny: one decoding step of 32 rows"
    assert "│ evaluations │ 1 async_eval, 3 tolist │ 1 async_eval, 3 tolist │" in lines
    assert "│ evaluations per token │ 0.125 │ 0.125 │" in lines
    assert "│ MB read │ 9.2 │ 9.2 │" in lines
    assert lines[-1] == "weights and KV cache, each prompt once: 5.8 MB"


def test_rollouts_alone(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    main(prompts=1, generations=2, new_tokens=3, repeats=1, rollouts_only=True, json_file=file)
    result = json.loads(file.read_text())
    assert result["rollout"]["tokens"] == result["batch_generate"]["tokens"] == 6
    counted = result["decoding"]
    assert counted["rows"] == 2
    assert counted["rollout"]["evaluations"] == {"async_eval": 1, "tolist": 3}
    assert counted["batch_generate"]["evaluations"] == {"async_eval": 1, "eval": 1, "tolist": 1}
    assert 3e6 < counted["least_bytes"] < counted["rollout"]["bytes_read"]
    assert not {"update", "forward_backward", "step", "update_overhead", "updates"} & result.keys()


def test_a_model_that_is_not_there_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as caught:
        main(model="./no-such-model")
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err.startswith("Model not found: ./no-such-model\n")


def test_table() -> None:
    part = {"seconds": 1.25, "tokens": 2560, "tokens_per_second": 2048.0, "peak_memory_gb": 0.5}
    result: dict[str, Any] = {
        "model": "tiny",
        "parameters": 800_000,
        "device": {"name": "AMD EPYC", "blas": {"name": "openblas"}},
        "prompts": 4,
        "generations": 8,
        "new_tokens": 64,
        "rollout_speedup": 1.5,
        "update_overhead": 1.125,
        **dict.fromkeys(PARTS, part),
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table.table(result))
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert lines[0] == "tiny (0.8 M) on AMD EPYC: 4 × 8 completions of 64 tokens"
    assert "│ whole step                             │   1.250 │    2,048 │    0.50 │" in lines
    caption = " ".join(lines[lines.index(next(line for line in lines if line.startswith("└"))) + 1 :])
    assert caption == (
        "rollouts 1.50 × as fast as batch_generate; update 1.12 × forward and backward; BLAS openblas"
    )


def test_medians_and_ratios_of_two_commits() -> None:
    new = [{"step, seconds": value, "CPU seconds": 6.0, "added": 1.0} for value in (1.0, 9.0, 2.0)]
    old = [{"step, seconds": 4.0, "CPU seconds": 3.0} for _ in range(3)]
    found = [line.split() for line in versus.lines(new, old)]
    assert found == [
        ["new", "old", "ratio"],
        ["step,", "seconds", "2.000", "4.000", "0.50"],
        ["CPU", "seconds", "6.000", "3.000", "2.00"],
    ]


def test_parts_that_two_commits_are_compared_by() -> None:
    part = {"seconds": 2.0, "peak_memory_gb": 0.5}
    result = {"rollout": part, "updates": [{"prompt_tokens": 83, "update": part, "gradient": part}]}
    assert versus.of_parts(result) == {
        "rollout, seconds": 2.0,
        "rollout, peak GB": 0.5,
        "update after 83 tokens, seconds": 2.0,
        "gradient after 83 tokens, seconds": 2.0,
    }
