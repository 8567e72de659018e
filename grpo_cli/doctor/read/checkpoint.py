"""A checkpoint's files: damage, step, fields of its state, and the run's other checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.errors import CheckpointError
from grpo_cli.models.model_files import BREAKDOWNS
from grpo_cli.models.safetensors_header import read_header
from grpo_cli.untrusted_json import DamagedFile, read_object

if TYPE_CHECKING:
    from grpo_cli.engine.run_dir.run_state import RunState

FINAL, MANIFEST = "final", "manifest.json"
STATE = "trainer_state.json"


def damage_of(folder: Path) -> str | CheckpointError:
    """The damage of a checkpoint's files: empty if intact; a CheckpointError if of another version."""
    from grpo_cli.engine.run_dir.manifest import damage

    try:
        read_object(folder / MANIFEST)  # with limits, before `damage` reads it without
        problem = damage(folder)
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it was never complete, or was copied only in part"
    except DamagedFile as broken:
        return f"{MANIFEST} {broken}"
    except CheckpointError as other:
        return other
    except BREAKDOWNS as broken:  # an unreadable folder, or an impossible file name
        return f"its files cannot be read: {broken}"
    return problem or next(broken_headers(folder), "")


def broken_headers(folder: Path) -> Iterator[str]:
    """Faults of weight files that were written wrong: the manifest's checksum matches those too."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            read_header(path)
        except (OSError, DamagedFile) as problem:
            yield f"{path.name} {problem}"


def siblings(folder: Path) -> list[Path]:
    """The other checkpoints of a checkpoint's run."""
    from grpo_cli.engine.run_dir.manifest import checkpoints

    return [other for other in checkpoints(folder.absolute().parent) if other.name != folder.name]


def readable_step(folder: Path) -> tuple[int, bool]:
    """The step of a checkpoint from its manifest, else from its name; -1 if neither can be read."""
    from grpo_cli.engine.run_dir.manifest import step_in_manifest

    try:
        return step_in_manifest(folder)
    except BREAKDOWNS:
        return -1, False


def state_of(folder: Path) -> "RunState | str":
    """The state that a run resumes from, as the engine reads it; the reason if the engine refuses it."""
    from grpo_cli.engine.run_dir.run_state import read_state

    try:
        return read_state(folder)[0]
    except CheckpointError as refusal:
        short = f"{folder.name}/{refusal.message.removeprefix(f'{folder}/')}"
        return reason_in_detail(folder) or short


def reason_in_detail(folder: Path) -> str:
    """All wrong fields of a trainer state, or its damage as JSON; empty if neither is the reason."""
    try:
        wrong = list(wrong_fields(read_object(folder / STATE)))
    except (OSError, DamagedFile) as problem:
        return f"{folder.name}/{STATE} {problem.strerror if isinstance(problem, OSError) else problem}"
    return f"{folder.name}/{STATE}: {', '.join(wrong)}" if wrong else ""


def wrong_fields(state: dict[str, Any]) -> Iterator[str]:
    """Invalid fields of a trainer state, which a run cannot resume from."""
    for name in ("step", "prompts_used"):
        if type(state.get(name)) is not int or state[name] < 0:
            yield f"`{name}` is {state.get(name)!r:.40}"
    words = state.get("random_state")
    if not (
        isinstance(words, list)
        and len(words) == 2
        and all(type(w) is int and 0 <= w < 1 << 32 for w in words)
    ):
        yield f"`random_state` is {words!r:.40}, not two words"
