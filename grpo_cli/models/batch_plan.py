"""Batch layout that a model supports, determined by trial (engine/update/forward_probe.py)."""

from dataclasses import dataclass
from typing import Literal

RowsTogether = Literal["mixed", "joined", "equal", "single"]


@dataclass(frozen=True)
class BatchPlan:
    """Rows that a model can process together. The default is the fastest and fits most models.

    `sampled`: completions sampled together:
        mixed   for prompts of any length, read left-padded in one batch
        joined  the same, but prompts of each length are read by themselves, without padding
        equal   for prompts of one length
        single  one completion
    `shared`: the way of reading prompts that a microbatch shares. `trained`: rows of a microbatch without
    shared prompts: any, right-padded, or one.
    """

    share_prefix: bool = True  # training reads each prompt once for its group
    sampled: RowsTogether = "mixed"
    shared: Literal["mixed", "joined"] = "mixed"
    trained: Literal["mixed", "single"] = "mixed"
