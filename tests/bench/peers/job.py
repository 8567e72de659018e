"""The task of every peer and the record of its steps: both travel between the processes as JSON.

A peer runs in another environment, where grpo_cli is only a folder on the path and pydantic is missing: of it
this module and those of the peers import the device and the rewards, which need the standard library and MLX.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
MOST_GRADIENT = 1.0  # the norm to which gradients are clipped
LETTERS = f"{ROOT / 'tests/support/letter_reward.py'}:mean_letter"  # tells any two completions apart


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A prompt, as token ids and as its question, and the right answer."""

    ids: list[int]
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: the model, its data and its length."""

    model: str  # a folder that mlx_lm.load reads
    dataset: str
    dataset_config: str
    reward: str  # as in `reward_functions`
    prompts: int  # P
    generations: int  # G
    new_tokens: int
    steps: int
    learning_rate: float
    samples: int  # held-out problems
    alike: bool  # peers compute with our BLAS, cache limit and compilation setting
    temperature: float = 1.0
    seed: int = 0
    training: list[Problem] = field(default_factory=list)  # steps · P, in order
    held_out: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> "Job":
        """The job of a file."""
        keys = json.loads(file.read_text())
        training, held_out = ([Problem(**one) for one in keys.pop(name)] for name in ("training", "held_out"))
        return cls(**keys, training=training, held_out=held_out)

    def write(self, file: Path) -> None:
        """Write it for `read`."""
        file.write_text(json.dumps(asdict(self)))

    def step(self, index: int) -> list[Problem]:
        """The P problems of a step, counted from 0."""
        return self.training[index * self.prompts : (index + 1) * self.prompts]

    @property
    def accuracy_reward(self) -> str:
        """The reward that tells right from wrong, if the trained one does not."""
        return "last_number" if self.reward == LETTERS else self.reward


class Recorder:
    """Seconds, CPU seconds, mean reward and mean tokens of each step; the peak is that of all but the first.

    The first step warms up: it makes the optimizer's state.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []  # of all threads
        self.rewards: list[float] = []
        self.tokens: list[float] = []
        self.peaks: list[int] = []  # bytes; our engine resets MLX's count in every step
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def step(self, rewards: list[float], tokens: list[int]) -> None:
        """End a step, and begin the next one."""
        import mlx.core as mx

        self.seconds.append(time.perf_counter() - self.began)
        self.cpu_seconds.append(time.process_time() - self.cpu_began)
        self.rewards.append(statistics.fmean(rewards))
        self.tokens.append(statistics.fmean(tokens))
        self.peaks.append(mx.get_peak_memory())
        mx.reset_peak_memory()
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def as_dict(self) -> dict[str, Any]:
        """The record, and MLX's highest peak in 10⁹ bytes."""
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "rewards": self.rewards,
            "tokens": self.tokens,
            "peak_memory_gb": max(self.peaks[1:]) / 1e9,
        }


def score(name: str, problems: list[Problem], texts: list[str]) -> list[float]:
    """A reward of one text for each problem, as our engine computes it."""
    from grpo_cli.rewards.table import load_rewards

    [(_, reward)] = load_rewards([name])
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    prompts = [[{"role": "user", "content": problem.question}] for problem in problems]
    answers = [problem.answer for problem in problems]
    return [float(one) for one in reward(prompts=prompts, completions=completions, answer=answers)]


def load(job: Job, folder: str = "") -> tuple[Any, Any]:
    """The model in float32 and the tokenizer, as mlx-lm loads them."""
    import mlx.core as mx
    from mlx_lm import load as load_folder

    model, tokenizer, *_ = load_folder(folder or job.model)
    model.set_dtype(mx.float32)
    mx.random.seed(job.seed)
    return model, tokenizer


def accuracy(job: Job, model: Any, tokenizer: Any) -> float | None:
    """The part of the held-out problems that greedy completions answer; None without such problems."""
    from mlx_lm.generate import batch_generate

    if not job.held_out:
        return None
    prompts = [problem.ids for problem in job.held_out]
    found = batch_generate(model, tokenizer, prompts, max_tokens=job.new_tokens)
    rewards = score(job.accuracy_reward, job.held_out, found.texts)
    return statistics.fmean(reward > 0 for reward in rewards)
