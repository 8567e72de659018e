"""The one verdict on memory: does a configuration fit into a budget, and if not, which keys to change.

    verdict = judge(config, budget, needs_of)       # needs_of(config, rows): MemoryNeeds
    verdict.fits, verdict.is_impossible, verdict.changes

Arithmetic only, without MLX: the engine asks it with the loaded model (check.py), the doctor with the headers
of the model's files.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grpo_cli.config.fields import toml_value
from grpo_cli.config.schema import Config
from grpo_cli.engine.memory.estimate import MemoryNeeds, steps_down

SURELY = 1.25  # needs / budget; above it the estimate's own error cannot explain the excess

# Needs of a configuration. The number is the maximum of completions at once; None: as many as it has.
NeedsOf = Callable[[Config, int | None], MemoryNeeds]


@dataclass(frozen=True, kw_only=True)
class MemoryVerdict:
    """The memory needs of a configuration, and the changes that make it fit."""

    budget: int  # bytes
    needs: MemoryNeeds
    least: MemoryNeeds  # with one completion at once
    changes: dict[str, Any] = field(default_factory=dict)  # keys to change, the least costly first
    changed: MemoryNeeds | None = None  # needs with the changes; None: no changes, or not known

    @property
    def fits(self) -> bool:
        """True if the needs are within the budget."""
        return self.needs.peak <= self.budget

    @property
    def is_impossible(self) -> bool:
        """True if not even one completion fits, beyond the error of the estimate."""
        return self.least.peak > SURELY * self.budget

    @property
    def suffices(self) -> bool:
        """True if it is known to fit with the changes."""
        return self.changed is not None and self.changed.peak <= self.budget

    @property
    def lines(self) -> list[str]:
        """The changes as lines of TOML."""
        return [f"{key} = {toml_value(value)}" for key, value in self.changes.items()]


def judge(config: Config, budget: int, needs_of: NeedsOf) -> MemoryVerdict:
    """Compare a configuration's needs with `budget`, in bytes; changes are added until it fits."""
    needs = needs_of(config, None)
    if needs.peak <= budget:
        return MemoryVerdict(budget=budget, needs=needs, least=needs)
    changes: dict[str, Any] = {}
    changed = None
    for step in steps_down(config):
        changes.update(step)
        changed = needs_of(config.model_copy(update=changes), None)
        if changed.peak <= budget:
            break
    return MemoryVerdict(
        budget=budget, needs=needs, least=needs_of(config, 1), changes=changes, changed=changed
    )
