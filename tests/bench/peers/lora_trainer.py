"""mlx-lm-lora's GRPO trainer on full weights, through its public names.

Its rollouts hold as many completions at once as its `batch_size` names prompts, so that one prompt's are
generated one after the other; `all_rows` sets it to P · G, which no other part of it reads here. It does not
clip gradients. Batches come in the order of the job instead of in a random one.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.optimizers as optim
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm_lora.trainer.grpo_trainer import GRPOTrainingArgs, train_grpo

from tests.bench.peers.job import Job, Problem, Recorder, accuracy, load, score


class Steps(TrainingCallback):
    """Records a step at each of its reports."""

    def __init__(self, recorder: Recorder, rewards: list[float]) -> None:
        self.recorder, self.rewards = recorder, rewards

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.recorder.step(self.rewards, [train_info["train_average_generated_tokens"]])


def as_configured(job: Job) -> dict[str, Any]:
    """Train with `batch_size` P, as its users do."""
    return train(job, job.prompts)


def all_rows(job: Job) -> dict[str, Any]:
    """Train with all completions of a step generated at once."""
    return train(job, job.prompts * job.generations)


def train(job: Job, batch_size: int) -> dict[str, Any]:
    """The steps of a job, each timed from one report to the next."""
    model, tokenizer = load(job)
    rewards: list[float] = []

    def reward(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        problems = [Problem(ids=[], question=q, answer=a) for q, a in zip(prompts, answer, strict=True)]
        rewards[:] = score(job.reward, problems, completions)
        return list(rewards)

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOTrainingArgs(
            batch_size=batch_size, iters=job.steps, group_size=job.generations, steps_per_report=1,
            steps_per_save=job.steps + 1, adapter_file=str(Path(folder) / "weights.safetensors"),
            max_completion_length=job.new_tokens, beta=0.0, epsilon=0.2, temperature=job.temperature,
            top_p=1.0, top_k=0,
        )  # fmt: skip
        recorder = Recorder()
        train_grpo(
            model, None, tokenizer,
            optim.AdamW(job.learning_rate, weight_decay=0.0, bias_correction=True),
            job.training, reward_funcs=[reward], args=settings, training_callback=Steps(recorder, rewards),
            iterate_batches=lambda **_: batches(job), end_answer_token="",
        )  # fmt: skip
        recorded = recorder.as_dict()
    return {**recorded, "accuracy": accuracy(job, model, tokenizer)}


def batches(job: Job) -> Iterator[Any]:
    """The steps' problems as the trainer reads them: ids, the answer's ids, question, answer, no types."""
    for index in range(job.steps):
        problems = job.step(index)
        questions, answers = zip(*[(one.question, one.answer) for one in problems], strict=True)
        yield [one.ids for one in problems], [[]] * len(problems), list(questions), list(answers), None
