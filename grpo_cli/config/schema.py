"""The configuration: one flat, frozen table of all keys, with what follows from them.

    config = Config(model_name="tiny", dataset="arithmetic")
    config.prompts_per_step == config.batch_size * config.gradient_accumulation_steps

The keys themselves are in keys.py and keys_of_the_loss.py.
"""

import math
from pathlib import Path

from grpo_cli.config.keys import (
    DataKeys,
    EnvironmentKeys,
    LoraKeys,
    MachineKeys,
    OptimizerKeys,
    OutputKeys,
    RankKeys,
    RewardKeys,
    RolloutKeys,
    RunKeys,
    StepKeys,
)
from grpo_cli.config.keys_of_the_loss import LossKeys, QuantizedRolloutKeys, ReuseKeys
from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.rewards.spec import RewardSpec

# Superseded MLX-GRPO keys that are still accepted → their successors.
SUPERSEDED = {
    "max_completion_length": "max_new_tokens",
    "eval_every_updates": "eval_steps",
    "eval_subset_size": "eval_samples",
}


# Pydantic collects fields from the last base first, so the groups are listed in reverse.
class Config(
    RankKeys,
    MachineKeys,
    OutputKeys,
    LoraKeys,
    StepKeys,
    OptimizerKeys,
    ReuseKeys,
    LossKeys,
    QuantizedRolloutKeys,
    EnvironmentKeys,
    RolloutKeys,
    RewardKeys,
    DataKeys,
    RunKeys,
):
    """A resolved configuration. Frozen: a run keeps the values it started with."""

    @property
    def run_dir(self) -> Path:
        """The run's folder: `<output_dir>/<run_name>`."""
        if self.run_name:
            return Path(self.output_dir) / self.run_name
        model, dataset = (Path(name.rstrip("/")).name for name in (self.model_name, self.dataset))
        return Path(self.output_dir) / f"{model}-{Path(dataset).stem}"

    @property
    def prompts_per_step(self) -> int:
        """P: prompts per optimizer update."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def pauses_on(self) -> set[str]:
        """The reasons of `pause_on`."""
        return {reason for reason in self.pause_on.split("|") if reason}

    @property
    def environments(self) -> list[str]:
        """The entries of `environment`."""
        return [entry.strip() for entry in self.environment.split(",") if entry.strip()]

    @property
    def task_name(self) -> str:
        """The source of the examples: the environment if it makes them, else the dataset."""
        return self.environment if self.environments and self.num_episodes else self.dataset

    @property
    def code_entries(self) -> list[str]:
        """Entries that may name a user's code as `file.py:name`: rewards, tools and environments."""
        return [*self.reward_functions, *self.tools, *self.environments]

    @property
    def max_completion_tokens(self) -> int:
        """Maximum length of a completion with what tools write; `auto` counts none: its results are short."""
        has_tools = bool(self.environment) or any(name != "auto" for name in self.tools)
        return self.max_new_tokens + (self.max_result_tokens if has_tools else 0)

    @property
    def has_entropy_bonus(self) -> bool:
        """True if the loss has an entropy bonus, with a fixed or an adaptive coefficient."""
        return self.entropy_coeff > 0 or self.use_adaptive_entropy

    @property
    def filters_by_current_entropy(self) -> bool:
        """True if the entropies of the current policy choose the tokens with a policy loss."""
        return self.top_entropy_quantile < 1.0 and self.top_entropy_policy == "current"

    @property
    def adapter_scale(self) -> float:
        """s, the factor on the adapters' output: lora_scale, or lora_scale / √rank with rsLoRA.

        Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2: γ = α / √r.
        """
        return self.lora_scale / math.sqrt(self.lora_rank) if self.use_rslora else self.lora_scale

    @property
    def prompts_per_generation(self) -> int:
        """Prompts whose rollouts are sampled at once, for steps_per_generation updates."""
        return self.prompts_per_step * self.steps_per_generation

    @property
    def reward_weight_list(self) -> list[float]:
        """One weight per reward function; 1 for each if reward_weights is empty."""
        return self.reward_weights or [1.0] * len(self.reward_functions)

    @property
    def decoupled_weights(self) -> list[float]:
        """Weights of the single rewards if these are normalized before they are summed; else empty.

        The overlong penalty is one of them, with weight 1.
        """
        if self.multi_objective_aggregation == "sum_then_normalize":
            return []
        return self.reward_weight_list + [1.0] * (self.soft_overlong_tokens > 0)

    @property
    def has_judge(self) -> bool:
        """True if the reward `judge` is one of reward_functions."""
        return any(RewardSpec.parse(name) == RewardSpec("", "judge") for name in self.reward_functions)

    @property
    def has_sequence_ratio(self) -> bool:
        """True if a completion has one importance ratio instead of one per token."""
        return self.importance_sampling_level == "sequence" or LOSS_TYPES[self.loss_type].by_sequence
