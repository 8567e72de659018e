"""How the rows of a batch are put together for a model: found by trying (engine/update/forward_probe.py)."""

from dataclasses import dataclass
from typing import Literal

RowsTogether = Literal["mixed", "equal", "single"]


@dataclass(frozen=True)
class BatchPlan:
    """What a model may be asked for at once. The default is the quickest way, which most models take.

    `sampled`: completions that are sampled together: of prompts of any length, left-padded; of prompts of
    equal length, so that nothing is padded; or one.
    `trained`: rows of a microbatch without a shared prefix: any, right-padded, or one.
    """

    share_prefix: bool = True  # training reads each prompt once for its group
    sampled: RowsTogether = "mixed"
    trained: Literal["mixed", "single"] = "mixed"
