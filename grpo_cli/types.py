"""The data types of the project: examples, rollouts and groups.

Dimensions have the same names everywhere: P prompts, G completions per prompt, B = P·G sequences, T tokens,
V vocabulary. Token ids and logprobs are passed from the sampler to the loss in these types and are never
rebuilt from text; `text` is only for rewards and display.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, Any]  # {"role": "system" | "user" | "assistant" | "tool", "content": text, …}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem of a dataset: the conversation that asks it, and the right answer."""

    messages: list[Message]
    answer: str
    # The dataset's row, for rewards: every column of the dataset, None if the row lacks it.
    columns: dict[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False)  # source of the row: `line 4 of a.jsonl, split \`test\``
    # The prompt if the dataset has it as a text instead of messages.
    prompt_text: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class TrainerState:
    """The progress of a run for reward functions, with the names of transformers' TrainerState."""

    global_step: int = 0  # optimizer updates made before
    max_steps: int = 0  # optimizer updates of the whole run
    epoch: float = 0.0


NOT_TRAINING = TrainerState()


class StopReason(StrEnum):
    """The reason for the end of a completion."""

    EOS = "eos"  # the policy sampled one of its end tokens
    STOP = "stop"  # the text reached one of the configured stop strings
    LENGTH = "length"  # max_new_tokens were used up: the completion is truncated


@dataclass(frozen=True, kw_only=True)
class EnvironmentUse:
    """Account of an environment in one rollout."""

    turns: int = 1  # of the model
    calls: int = 0  # of tools
    failures: int = 0  # calls that gave an error
    seconds: float = 0.0  # spent in the environment
    reward: float | None = None  # the environment's own


@dataclass(kw_only=True)
class Rollout:
    """One completion as the policy sampled it, with its rewards and advantage."""

    token_ids: list[int]  # (T,) the stop token included, so that stopping is trained
    logprobs: list[float]  # (T,) log π(token) at the sampling temperature, over the whole vocabulary
    entropies: list[float]  # (T,) nats, of that distribution
    # (T,) 1: the policy wrote the token and is trained on it; 0: an environment wrote it. Empty: all 1
    loss_mask: list[int] = field(default_factory=list)
    stop_reason: StopReason
    text: str  # completion_prefix + the completion, without the end token
    own_text: str = ""  # the same without what an environment wrote; empty: nothing was written
    messages: list[Message] = field(default_factory=list)  # the turns and their answers; empty: one turn
    # With strip_thinking: text and messages after the thinking, for rewards; None: the whole text
    answer_text: str | None = None
    answer_messages: list[Message] = field(default_factory=list)
    use: EnvironmentUse | None = None  # None: no environment
    # By name of the reward function, before its weight; None: it does not apply to this completion.
    rewards: dict[str, float | None] = field(default_factory=dict)
    reward: float = 0.0  # weighted sum of the rewards that apply
    advantage: float = 0.0
    # (T,) log π(token) of the training forward before the first update; empty: `logprobs` are used instead
    old_logprobs: list[float] = field(default_factory=list)
    # Environments answered turns meanwhile: the last bits of `logprobs` depend on when, so updates use others
    logprobs_depend_on_time: bool = False
    log_kept: list[float] = field(default_factory=list)  # (T,) log of the mass kept by top_k, …; empty: all 0
    extra: dict[str, Any] = field(default_factory=dict)  # values that rewards gave to log_extra

    def __post_init__(self) -> None:
        self.loss_mask = self.loss_mask or [1] * len(self.token_ids)

    @property
    def final_text(self) -> str:
        """The text of the last turn: what answers the problem."""
        return str(self.seen_messages[-1]["content"]) if self.messages else self.seen_text

    @property
    def seen_text(self) -> str:
        """The text that rewards receive."""
        return self.text if self.answer_text is None else self.answer_text

    @property
    def seen_messages(self) -> list[Message]:
        """The turns and their answers that rewards receive."""
        return self.messages if self.answer_text is None else self.answer_messages

    @property
    def length(self) -> int:
        """Number of tokens that the policy wrote."""
        return sum(self.loss_mask)

    @property
    def trained_ids(self) -> list[int]:
        """The tokens that the policy wrote."""
        return [token for token, is_trained in zip(self.token_ids, self.loss_mask, strict=True) if is_trained]

    def trained(self, values: list[float]) -> list[float]:
        """The entries of `values` (T,) for the tokens that the policy wrote."""
        return [value for value, is_trained in zip(values, self.loss_mask, strict=True) if is_trained]

    @staticmethod
    def read(saved: dict[str, Any]) -> "Rollout":
        """A rollout from plain data, the inverse of `asdict`."""
        use = saved.get("use")
        stop_reason = StopReason(saved["stop_reason"])
        return Rollout(**{**saved, "stop_reason": stop_reason, "use": EnvironmentUse(**use) if use else None})

    @property
    def score(self) -> float | None:
        """The reward; None if no reward applies, so that the completion is left out of its group."""
        applies = not self.rewards or any(value is not None for value in self.rewards.values())
        return self.reward if applies else None

    @property
    def sampled_logprobs(self) -> list[float]:
        """(T,) log-probability with which each token was sampled: log π(token) − log kept mass."""
        if not self.log_kept:
            return self.logprobs
        return [logprob - kept for logprob, kept in zip(self.logprobs, self.log_kept, strict=True)]


@dataclass
class RolloutGroup:
    """The G completions of one prompt: the group that GRPO compares."""

    example: Example
    prompt_ids: list[int]
    rollouts: list[Rollout]

    @property
    def scores(self) -> list[float]:
        """The rewards of the completions that at least one reward applies to."""
        return [rollout.score for rollout in self.rollouts if rollout.score is not None]
