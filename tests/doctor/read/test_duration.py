"""A run's duration, by hand."""

from dataclasses import replace

from grpo_cli.config.schema import Config
from grpo_cli.doctor.read.duration import (
    MeasuredStep,
    StepDuration,
    evaluations,
    scaled,
    total_seconds,
    total_steps,
)


def test_steps_and_evaluations_are_counted_as_the_trainer_counts_them() -> None:
    config = Config(batch_size=2, gradient_accumulation_steps=2, num_epochs=2, eval_steps=10)
    assert [total_steps(config, examples) for examples in (1, 4, 101)] == [1, 2, 50]
    assert total_steps(config.model_copy(update={"max_steps": 7}), 101) == 7
    assert total_steps(config.model_copy(update={"num_iterations": 3}), 101) == 150
    assert [evaluations(config, steps) for steps in (1, 10, 25)] == [2, 2, 4]
    assert evaluations(config.model_copy(update={"eval_steps": 0}), 25) == 0


def test_a_step_is_scaled_by_prompts_and_tokens() -> None:
    config = Config(batch_size=4, gradient_accumulation_steps=1, num_generations=2, max_new_tokens=64,
                    eval_samples=16, eval_max_new_tokens=32, eval_steps=10)  # fmt: skip
    measured = MeasuredStep(
        rollout=2.0, update=3.0, prompts=1, prompt_tokens=36, completion_tokens=64, longest=32, cut_off=64
    )
    duration = scaled(config, measured)
    assert duration.rollout == 2.0 * 4 * 2
    assert duration.update == 3.0 * 4 * (36 + 128) / 100
    assert duration.evaluation == 16.0 * 2 / 2  # twice as many rows, half as long
    assert scaled(config, replace(measured, cut_off=0)).rollout == 2.0 * 4
    assert total_seconds(config, replace(duration, evaluation=5.0), 10) == 10 * duration.step + 2 * 5.0


def test_a_step_s_parts_add_up() -> None:
    assert StepDuration(rollout=1.0, update=2.0, other=3.0, evaluation=9.0, prompts=1, basis="").step == 6.0
