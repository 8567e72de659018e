"""The engine of this package on the job, and the job's problems, which its data layer reads."""

import tempfile
import time
from dataclasses import replace
from typing import Any

from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.rollout.prompts import Prompt
from grpo_cli.engine.setup import prepare
from grpo_cli.engine.train import train
from tests.bench.peers.job import MOST_GRADIENT, Job, Problem, Recorder, accuracy, load


def config_of(job: Job, **keys: Any) -> Config:
    """The job as a configuration."""
    settings = {
        "model_name": job.model, "dataset": job.dataset, "dataset_config": job.dataset_config,
        "system_prompt": "", "completion_prefix": "", "reward_functions": [job.reward],
        "num_generations": job.generations, "max_new_tokens": job.new_tokens, "batch_size": job.prompts,
        "gradient_accumulation_steps": 1, "max_steps": job.steps, "num_epochs": 1000, "seed": job.seed,
        "temperature": job.temperature, "learning_rate": job.learning_rate, "warmup_ratio": 0.0,
        "lr_scheduler_type": "constant", "max_grad_norm": MOST_GRADIENT, "kl_coeff": 0.0, "eval_steps": 0,
        "eval_samples": job.samples, "save_steps": 0, "run_name": "grpo",
    }  # fmt: skip
    return Config.model_validate(settings | keys)


def with_problems(job: Job) -> tuple[Job, dict[str, Any]]:
    """The job with its problems in the order of a run, and the untrained model's accuracy."""
    run = prepare(config_of(job, eval_steps=1 if job.samples else 0))
    training, _ = run.train_prompts.take(0, job.steps * job.prompts)
    held_out = run.eval_prompts if job.samples else []
    job = replace(job, training=[*map(problem, training)], held_out=[*map(problem, held_out)])
    return job, {"parameters": run.policy.parameter_count, "accuracy": accuracy(job, *load(job))}


def problem(prompt: Prompt) -> Problem:
    """A prompt of the engine as the peers get it."""
    example = prompt.example
    return Problem(ids=prompt.ids, question=example.messages[-1]["content"], answer=example.answer)


class Steps:
    """Records each finished step of a run; the first one from its own clock, which leaves out loading."""

    def __init__(self) -> None:
        self.recorder = Recorder()

    def __call__(self, event: events.Event) -> None:
        if not isinstance(event, events.StepFinished):
            return
        if event.step == 1:  # warms up, and its CPU time, which counts the loading, is not used
            self.recorder.began = time.perf_counter() - event.metrics["step_seconds"]
        rollouts = [rollout for group in event.groups for rollout in group.rollouts]
        rewards, lengths = zip(*[(rollout.reward, rollout.length) for rollout in rollouts], strict=True)
        self.recorder.step(list(rewards), list(lengths))


def engine(job: Job) -> dict[str, Any]:
    """Train in a folder that is deleted afterwards; its model is evaluated as mlx-lm loads it."""
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        final = train(config_of(job, output_dir=folder), steps)
        recorded = steps.recorder.as_dict()
        return {**recorded, "accuracy": accuracy(job, *load(job, str(final)))}
