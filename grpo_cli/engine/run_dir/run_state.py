"""The state of a run after a step, besides weights and optimizer: everything needed to resume it exactly.

It is stored in trainer_state.json, and in rollouts.json the completions that later updates still train on
(num_iterations or steps_per_generation > 1). Floats are written with full precision.

MLX is imported late, since the doctor also reads states where MLX cannot be imported.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from grpo_cli.errors import CheckpointError
from grpo_cli.types import RolloutGroup
from grpo_cli.untrusted_json import DamagedFile, Schema, read_as

STATE_FILE = "trainer_state.json"
ROLLOUTS_FILE = "rollouts.json"
LARGEST_ROLLOUTS = 4 << 30  # bytes; a token takes about 60


@dataclass(kw_only=True)
class RunState:
    """A run after `step` optimizer updates."""

    step: int = 0
    total_steps: int = 0  # at the time of saving; a resumed run may have another number
    prompts_used: int = 0  # position in the stream of prompts
    random_state: list[int] = field(default_factory=list)  # MLX's two words, for rewards that use it
    sampling_state: list[int] = field(default_factory=list)  # of the rollouts' KeyChain; older runs had none
    evaluated: bool = False  # the evaluation due after this step was made
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # log lines of all evaluations so far
    faults: list[str] = field(default_factory=list)  # reasons of the latest updates skipped in a row
    log_positions: dict[str, int] = field(default_factory=dict)  # bytes of each log file
    entropy_coeff: float | None = None  # of the adaptive entropy bonus; None: the configured one
    last_entropy: float | None = None  # mean of the latest update, in nats, which adaptive entropy looks at
    has_taught: bool = False  # some step had a group whose rewards differ
    data: str = ""  # fingerprint of the training prompts
    started_in: str = ""  # the folder that relative paths in the configuration refer to
    started_at: str = ""  # ISO 8601, local: the date given to chat templates; older runs had none
    inputs: dict[str, str] = field(default_factory=dict)  # checksums by name (inputs.py)
    kernels: dict[str, str] = field(default_factory=dict)  # choices by name (kernels.py)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The log line of the evaluation after this step; None if there was none."""
        last = self.evaluations[-1] if self.evaluations else None
        return last if last and last["step"] == self.step else None

    def copy(self) -> "RunState":
        """A copy that later steps do not change."""
        return replace(
            self,
            evaluations=list(self.evaluations),
            log_positions=dict(self.log_positions),
            faults=list(self.faults),
        )


class _Essentials(Schema):
    """The required fields of a saved state, with their bounds."""

    step: Annotated[int, Field(ge=0, lt=1 << 53)]
    total_steps: Annotated[int, Field(ge=0, lt=1 << 53)]
    prompts_used: Annotated[int, Field(ge=0, lt=1 << 53)]
    random_state: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], Field(min_length=2, max_length=2)]
    evaluations: list["_Evaluation"]
    log_positions: dict[str, Annotated[int, Field(ge=0, lt=1 << 62)]]
    data: str


class _Evaluation(Schema):
    """The fields of an evaluation's log line that later steps read."""

    step: Annotated[int, Field(ge=0)]
    eval_accuracy: float | None = None


def random_state() -> list[int]:
    """MLX's global random state: two 32-bit words."""
    import mlx.core as mx

    state: Any = mx.random.state  # a list of one key that mlx's stubs call an object
    return list(state[0].tolist())


def restore_random_state(words: list[int]) -> None:
    """Set MLX's global random state to `words`, as returned by `random_state`."""
    import mlx.core as mx

    high, low = words
    mx.random.seed((high << 32) | low)


def write_state(folder: Path, state: RunState, groups: list[RolloutGroup]) -> None:
    """Write trainer_state.json, and rollouts.json if later updates need the rollouts."""
    _write(folder / STATE_FILE, asdict(state))
    if groups:
        _write(folder / ROLLOUTS_FILE, [_plain(group) for group in groups])


def read_state(folder: Path) -> tuple[RunState, list[RolloutGroup]]:
    """Read the files of `write_state`. Raises CheckpointError if they are damaged."""
    path = folder / STATE_FILE
    try:
        read_as(_Essentials, path)
        state = read_as(RunState, path)
        path = folder / ROLLOUTS_FILE
        groups = read_as(list[RolloutGroup], path, LARGEST_ROLLOUTS) if path.exists() else []
        for group in groups:
            _check_group(group)
        return state, groups
    except (OSError, DamagedFile) as error:
        problem = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{path} {problem}",
            "resume from another checkpoint of the run",
            trouble="resumable",
        ) from error


def _check_group(group: RolloutGroup) -> None:
    """Raise DamagedFile for rollouts with invalid token ids, or without one number per token."""
    for rollout in group.rollouts:
        count = len(rollout.token_ids)
        needed = {len(rollout.logprobs), len(rollout.entropies), len(rollout.loss_mask)}
        optional = {len(rollout.old_logprobs), len(rollout.log_kept)} - {0}
        if not count or needed | optional != {count}:
            raise DamagedFile(f"holds a rollout of {count} ids without one logprob and entropy for each")
        if not set(rollout.loss_mask) <= {0, 1}:
            raise DamagedFile("holds a loss mask that is neither 0 nor 1")
    ids = [*group.prompt_ids, *(number for rollout in group.rollouts for number in rollout.token_ids)]
    if not group.prompt_ids or not all(0 <= number < 1 << 31 for number in ids):
        raise DamagedFile("holds ids that are not token ids")


def _plain(group: RolloutGroup) -> dict[str, Any]:
    """A group as plain data, without the dataset columns, which may contain dates or bytes.

    Only rewards read the columns, and these rollouts already have their rewards.
    """
    example = {"messages": group.example.messages, "answer": group.example.answer}
    rollouts = [asdict(rollout) for rollout in group.rollouts]
    return {"example": example, "prompt_ids": group.prompt_ids, "rollouts": rollouts}


def _write(path: Path, content: Any) -> None:
    # Half a surrogate pair, which cannot be encoded, becomes "?". Training uses the ids, not the text.
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
