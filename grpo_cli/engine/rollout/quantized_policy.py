"""The policy that samples rollouts: the trained policy itself, or a copy quantized to a few bits.

    sampler = RolloutPolicy(config, policy, listener)
    generate(sampler.current(), prompts, …)     # makes the copy, or refreshes it after an update
    sampler.outdate()                           # the policy's weights have changed

The copy differs from the trained policy, so importance_sampling.py weights its tokens. At the cost of one
forward two things are checked: the copy's logprobs in the loss's forward equal those of the sampler
(logprob_mismatch.py, as for any policy), and the policy is close to its copy.
"""

from dataclasses import replace

from grpo_cli import device
from grpo_cli.config.schema import Config
from grpo_cli.engine import events
from grpo_cli.engine.guards.logprob_mismatch import Deviation
from grpo_cli.errors import TrainingError
from grpo_cli.models.load import Policy
from grpo_cli.models.quantized import QuantizedCopy, Rounding, copy_bytes

# Mean |log π − log π_rollout| by token, in nats. Measured with models of 1 and 135 million weights: 8 bits
# 0.0001 and 0.04, 4 bits 0.003 and 0.8, 3 bits 0.006 and 3.8, 2 bits 0.8 and 11.
FAR, OTHER = 1.0, 3.0
SLOW = (
    "quantize_for_rollouts: this CPU computes with the rounded weights in float32, so rollouts are as slow "
    "as without it and take the memory of a second model"
)


class RolloutPolicy:
    """The policy that samples rollouts, and its quantized copy if configured."""

    def __init__(self, config: Config, policy: Policy, listener: events.Listener) -> None:
        self.policy, self.listener = policy, listener
        self.rounding = Rounding(config.bits, config.group_size) if config.quantize_for_rollouts else None
        self.dequantize = device.prepare().upcast
        self.copy: QuantizedCopy | None = None
        self.is_current = False

    def current(self) -> Policy:
        """The policy, or an up-to-date quantized copy. Raises ModelError if it cannot be quantized."""
        if self.rounding is None:
            return self.policy
        if self.copy is None:
            self.copy = QuantizedCopy(self.policy.model, self.rounding, self.dequantize)
            if self.dequantize:
                self.listener(events.Notice(SLOW))
        elif not self.is_current:
            self.copy.refresh(self.policy.model)
        self.is_current = True
        return replace(self.policy, model=self.copy.model)

    def outdate(self) -> None:
        """Mark the copy as outdated, since the policy's weights have changed."""
        self.is_current = False

    @property
    def size(self) -> int:
        """Bytes of the copy, also before it is made; 0 without one."""
        if self.rounding is None:
            return 0
        return copy_bytes(self.policy.model, self.rounding, self.dequantize)

    def check(self, deviation: Deviation) -> None:
        """Warn if the copy is far from the policy; raise TrainingError if it is unrelated to it."""
        assert self.rounding is not None
        bits, more = self.rounding.bits, "write `bits = 8`, or `quantize_for_rollouts = false`"
        seen = (
            f"over {deviation.tokens} sampled tokens the logprobs of the policy and of its copy of {bits} "
            f"bits differ by {deviation.mean:.2g} nats on average"
        )
        if deviation.mean > OTHER:
            raise TrainingError(
                f"The quantized copy behaves like another model: {seen}",
                f"its completions say nothing about the policy; {more}",
                trouble="quantised-rollouts",
            )
        if deviation.mean > FAR:
            told = f"the quantized copy is far from the policy: {seen}"
            self.listener(events.Notice(f"{told}, so few of its tokens count with full weight; {more}"))
