"""Memory needs of a configuration: by hand, and as the engine computes them."""

import json
import shutil
from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.doctor.read.config_memory import needed, shares_prompts, weights_in
from grpo_cli.models.quantized import Rounding
from tests.support.doctor_findings import TINY
from tests.support.hollow_model import hollow_model


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_weights_are_counted_from_the_headers() -> None:
    weights = weights_in(hollow_model())
    assert weights is not None
    assert (weights.numbers, weights.width, weights.stored) == (8_390_656, 2, 16_781_312)
    assert weights.adapters(rank=8, last_layers=0) == 2 * 8 * (4096 + 1024)
    assert weights.adapters(rank=8, last_layers=1) == 8 * (4096 + 1024)


def test_what_is_added_up_for_full_fine_tuning_lora_and_a_reference() -> None:
    folder, numbers = hollow_model(), 8_390_656
    on_cpu = needed(Config(), folder, on_cpu=True)
    on_gpu = needed(Config(), folder, on_cpu=False)
    adapters = needed(Config(lora_rank=8), folder, on_cpu=False)
    held = needed(Config(kl_coeff=0.1), folder, on_cpu=False)
    assert on_cpu and on_gpu and adapters and held
    assert (on_cpu.weights, on_cpu.optimizer) == (4 * numbers, 8 * numbers)
    assert (on_gpu.weights, on_gpu.optimizer) == (2 * numbers, 12 * numbers)  # and a float32 copy
    assert (adapters.weights, adapters.optimizer) == (2 * numbers + 4 * 81_920, 8 * 81_920)
    assert held.weights == 4 * numbers


def test_adapters_that_a_run_continues_count_with_their_own_rank() -> None:
    folder = hollow_model()
    for name, content in {
        "ours": {"model": "m", "num_layers": 1, "lora_parameters": {"rank": 8, "scale": 2.0}},
        "peft": {"peft_type": "LORA", "base_model_name_or_path": "m", "r": 8, "lora_alpha": 16},
    }.items():
        Path(name).mkdir()
        (Path(name) / "adapter_config.json").write_text(json.dumps(content))
        found = needed(Config(adapter=name, kl_coeff=0.1), folder, on_cpu=False)
        layers = 1 if name == "ours" else 0
        new = needed(Config(lora_rank=8, lora_layers=layers, kl_coeff=0.1), folder, on_cpu=False)
        assert found == new


def test_the_copy_of_quantised_rollouts_is_added() -> None:
    """4 bits a number, and a scale and a bias of two bytes for 64 of them; a CPU keeps float32."""
    folder, numbers = hollow_model(), 8_390_656
    config = Config(quantize_for_rollouts=True, bits=4, group_size=64)
    on_cpu, on_gpu = (needed(config, folder, on_cpu=here) for here in (True, False))
    assert on_cpu and on_gpu
    assert on_cpu.weights == 4 * numbers + 4 * numbers
    assert on_gpu.weights == 2 * numbers + numbers // 2 + numbers // 16
    assert on_gpu.weights - 2 * numbers == Rounding(4, 64).bytes_of(numbers, 2)


def test_it_agrees_with_the_engine_about_the_embedded_hollow_model() -> None:
    from grpo_cli.engine.memory.check import needs_of
    from grpo_cli.engine.setup import prepare

    config = Config(model_name="tiny", dataset="arithmetic", max_train_samples=8, max_new_tokens=48,
                    eval_steps=0, system_prompt="", completion_prefix="")  # fmt: skip
    exact = needs_of(prepare(config))
    ours = needed(config, TINY, on_cpu=True)
    assert exact and ours
    assert (ours.weights, ours.optimizer - exact.optimizer < 100) == (exact.weights, True)
    assert 1.0 <= ours.peak / exact.peak < 2.0  # prompts are taken to be 64 tokens, not some 14


def test_it_agrees_with_the_engine_about_a_judge() -> None:
    from grpo_cli.engine.memory.check import needs_of
    from grpo_cli.engine.setup import prepare

    config = Config(model_name="tiny", dataset="arithmetic", max_train_samples=8, max_new_tokens=48,
                    eval_steps=0, system_prompt="", completion_prefix="")  # fmt: skip
    judged = config.model_copy(update={"reward_functions": ["judge"], "judge": "tiny", "judge_mode": "rank"})
    exact = needs_of(prepare(judged))
    ours, without = needed(judged, TINY, on_cpu=True), needed(config, TINY, on_cpu=True)
    assert exact and ours and without
    assert (ours.weights, ours.judging) == (exact.weights, exact.judging)
    assert ours.weights == 2 * without.weights
    assert without.judging == 0
    # rank shows all 8 completions: the question alone has 200 + 512 + 8 · 48 tokens, and 256 for the answer
    per_token = 2 * 4 * 4 * 32 * 4  # bytes of keys and values in float32
    assert ours.judging >= 8 * (200 + 512 + 8 * 48 + 256) * per_token


def test_models_that_share_prompts() -> None:
    """Qwen2.5's config.json names a window that is not used."""
    assert shares_prompts({"sliding_window": 32768, "use_sliding_window": False})
    assert shares_prompts({"sliding_window": None, "model_type": "llama"})
    assert shares_prompts({"model_type": "nanochat"})
    assert not shares_prompts({"sliding_window": 4096})
    assert not shares_prompts({"model_type": "nanochat_v2"})


def test_prompts_count_once_a_group_on_a_cpu() -> None:
    """The embedded model's rollouts, with 8 completions of long prompts: less on a CPU than elsewhere."""
    config = Config(model_name="tiny", dtype="float32", batch_size=1, gradient_accumulation_steps=1)
    on_cpu, elsewhere = needed(config, TINY, True), needed(config, TINY, False)
    assert on_cpu is not None
    assert elsewhere is not None
    assert on_cpu.update < 0.5 * elsewhere.update  # without the scores of 512 tokens
    assert on_cpu.rollouts < 0.6 * elsewhere.rollouts


def test_a_sliding_window_costs_a_prompt_for_every_completion(tmp_path: Path) -> None:
    """Rotating caches cannot be shared: 64 prompt tokens count 8 times in the update, as in the engine."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    config = Config(model_name="tiny", dataset="arithmetic", max_new_tokens=64, num_generations=8)
    shared = needed(config, folder, on_cpu=True)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "sliding_window": 32}))
    own = needed(config, folder, on_cpu=True)
    assert shared and own
    assert own.rollouts > 1.5 * shared.rollouts
    assert own.update > 1.2 * shared.update
