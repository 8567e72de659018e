"""The nouns of the project, before any algorithm.

Dimensions are named once and everywhere: P prompts, G completions per prompt, B = P·G sequences,
T tokens, V vocabulary. Token ids and logprobs travel from the sampler to the loss in these
carriers and are never rebuilt from text; `text` serves rewards and people only.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, Any]  # {"role": "system" | "user" | "assistant" | "tool", "content": text, …}


@dataclass(frozen=True)
class Example:
    """One problem of a dataset: the conversation that asks it and the answer that is right."""

    messages: list[Message]
    answer: str
    columns: dict[str, Any] = field(default_factory=dict)  # every value of the row, as it is, for rewards
    place: str = field(default="", compare=False)  # where the row stands: `line 4 of a.jsonl, split \`test\``


class StopReason(StrEnum):
    """Why a completion ended."""

    EOS = "eos"  # the policy sampled one of its end tokens
    STOP = "stop"  # the text reached one of the configured stop strings
    LENGTH = "length"  # max_new_tokens were used up: the completion is truncated


@dataclass
class Rollout:
    """One completion as the policy sampled it, and what the rewards said of it."""

    token_ids: list[int]  # (T,) the stop token included, so that stopping is trained
    logprobs: list[float]  # (T,) log π(token) at the sampling temperature, over the whole vocabulary
    entropies: list[float]  # (T,) nats, of that distribution
    stop_reason: StopReason
    text: str  # completion_prefix + the completion, without the end token
    rewards: dict[str, float] = field(default_factory=dict)  # by reward function, before its weight
    reward: float = 0.0  # the weighted sum
    advantage: float = 0.0
    # (T,) log π(token) of the training forward before the first update on it; empty: `logprobs` serve
    old_logprobs: list[float] = field(default_factory=list)
    log_kept: list[float] = field(default_factory=list)  # (T,) log mass that top_k, … kept; empty: all of it

    @staticmethod
    def read(saved: dict[str, Any]) -> "Rollout":
        """A rollout from the plain data that `asdict` makes of one."""
        return Rollout(**{**saved, "stop_reason": StopReason(saved["stop_reason"])})

    @property
    def sampled_logprobs(self) -> list[float]:
        """(T,) log-probability with which each token was drawn: log π(token) − log kept mass."""
        if not self.log_kept:
            return self.logprobs
        return [logprob - kept for logprob, kept in zip(self.logprobs, self.log_kept, strict=True)]


@dataclass
class RolloutGroup:
    """The G completions of one prompt: the group that GRPO compares."""

    example: Example
    prompt_ids: list[int]
    rollouts: list[Rollout]
