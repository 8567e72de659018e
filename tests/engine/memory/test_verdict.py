"""The verdict on memory: what fits, what suffices, and the keys to change."""

from grpo_cli.config.schema import Config
from grpo_cli.engine.memory.check import cure_of
from grpo_cli.engine.memory.estimate import (
    MemoryNeeds,
)
from grpo_cli.engine.memory.verdict import judge


def needs(peak: int) -> MemoryNeeds:
    return MemoryNeeds(weights=peak, optimizer=0, gradients=0, step=0, rollouts=0, update=0)


def test_a_verdict_by_hand() -> None:
    """10 bytes for each new token, one completion takes a quarter: 64 tokens need 640, and 160 at least."""

    def needs_of(config: Config, rows: int | None) -> MemoryNeeds:
        return needs(config.max_new_tokens * 10 // (4 if rows == 1 else 1))

    config = Config(max_new_tokens=256, batch_size=2, lora_rank=8)
    assert judge(config, 2560, needs_of).fits
    verdict = judge(config, 1300, needs_of)
    assert (verdict.fits, verdict.is_impossible, verdict.suffices) == (False, False, True)
    assert verdict.lines == ["batch_size = 1", "gradient_accumulation_steps = 8", "max_new_tokens = 128"]
    assert verdict.changed == needs(1280)
    hopeless = judge(config, 500, needs_of)
    assert (hopeless.is_impossible, hopeless.suffices) == (True, False)
    assert cure_of(hopeless).startswith("choose a smaller model: with `batch_size = 1`, ")
    assert cure_of(hopeless).endswith("`num_generations = 4` it still needs about 0.0 GB")
    assert not judge(config, 512, needs_of).is_impossible  # 640 / 512 is within the estimate's error
