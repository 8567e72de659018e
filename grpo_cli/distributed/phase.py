"""The phases of a rank's work: its watch measures the pauses of each, and messages name them."""

from enum import StrEnum


class Phase(StrEnum):
    """The current work of a rank, as messages name it: `rank 1 (b) hangs: … while sampling`."""

    STARTING = "starting"
    CONNECTING = "connecting"  # this rank has met all others; MLX connects them next
    LOADING = "loading"
    COPYING = "copying the checkpoint to all ranks"
    SAMPLING = "sampling"
    SCORING = "scoring"
    UPDATING = "updating"
    EVALUATING = "evaluating"
    SAVING = "saving"
    WAITING = "waiting for the others"  # inside a collective; a rank that waits does not count as hanging
