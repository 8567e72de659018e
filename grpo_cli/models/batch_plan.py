"""Batch layout that a model supports, determined by trial (engine/update/forward_probe.py)."""

from dataclasses import dataclass
from typing import Literal

RowsTogether = Literal["mixed", "equal", "single"]


@dataclass(frozen=True)
class BatchPlan:
    """Rows that a model can process together. The default is the fastest and fits most models.

    `sampled`: completions sampled together: for prompts of any length, left-padded; for prompts of
    equal length, so that nothing is padded; or one.
    `trained`: rows of a microbatch without a shared prefix: any, right-padded, or one.
    """

    share_prefix: bool = True  # training reads each prompt once for its group
    sampled: RowsTogether = "mixed"
    trained: Literal["mixed", "single"] = "mixed"
