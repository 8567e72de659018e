"""Whom completions are sampled from: the policy itself, or a copy of it rounded to a few bits.

    sampler = RolloutPolicy(config, policy, listener)
    generate(sampler.current(), prompts, …)     # the copy is made now, or made anew after an update
    sampler.outdate()                           # the policy's weights were changed

The copy is another policy than the one that is trained; importance_sampling.py weights its tokens.
What one update's forward costs shows that all is well: the copy's logprobs of the sampled tokens by the
loss's forward are those of the sampler (as logprob_mismatch.py demands of any policy), and the policy is near
its copy.
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
    """The policy that is sampled from."""

    def __init__(self, config: Config, policy: Policy, listener: events.Listener) -> None:
        self.policy, self.listener = policy, listener
        self.rounding = Rounding(config.bits, config.group_size) if config.quantize_for_rollouts else None
        self.dequantize = device.prepare().upcast
        self.copy: QuantizedCopy | None = None
        self.is_current = False

    def current(self) -> Policy:
        """The policy, or its copy as the policy is now. Raises ModelError where it cannot be rounded."""
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
        """The policy's weights have changed."""
        self.is_current = False

    @property
    def size(self) -> int:
        """Bytes that the copy takes, also before it is made; 0 without one."""
        if self.rounding is None:
            return 0
        return copy_bytes(self.policy.model, self.rounding, self.dequantize)

    def check(self, deviation: Deviation) -> None:
        """Warn where the copy is far from the policy; TrainingError where it is another model."""
        assert self.rounding is not None
        bits, more = self.rounding.bits, "write `bits = 8`, or `quantize_for_rollouts = false`"
        seen = (
            f"over {deviation.tokens} sampled tokens the logprobs of the policy and of its copy of {bits} "
            f"bits differ by {deviation.mean:.2g} nats on average"
        )
        if deviation.mean > OTHER:
            raise TrainingError(
                f"The quantised copy is another model: {seen}",
                f"what it writes says nothing of the policy; {more}",
                trouble="quantised-rollouts",
            )
        if deviation.mean > FAR:
            told = f"the quantised copy is far from the policy: {seen}"
            self.listener(events.Notice(f"{told}, and few of its tokens count fully; {more}"))
