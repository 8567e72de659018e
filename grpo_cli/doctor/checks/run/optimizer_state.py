"""The check that a checkpoint's optimizer state fits its weights, by names and shapes alone."""

from collections.abc import Iterator
from pathlib import Path

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped
from grpo_cli.doctor.read.checkpoint import damage_of, siblings
from grpo_cli.doctor.read.model_folder import ADAPTERS
from grpo_cli.foreign_text import quoted
from grpo_cli.models.model_files import SHOWN, tensors_in
from grpo_cli.models.safetensors_header import Tensor, read_header
from grpo_cli.untrusted_json import DamagedFile

OPTIMIZER = "optimizer.safetensors"


def optimizer_state(context: Context) -> Iterator[Finding]:
    """The optimizer's state fits the weights."""
    sound, damaged = [], []
    for folder in context.checkpoints:
        if isinstance(context.damages[folder], str) and context.damages[folder]:
            damaged.append(folder.name)
            continue
        try:
            state, trained = read_header(folder / OPTIMIZER), trained_weights(folder)
        except FileNotFoundError as missing:
            name = Path(str(missing.filename)).name
            yield unfit(folder, f"{folder.name}: {name} is missing")
            continue
        except (OSError, DamagedFile):
            continue  # checkpoint-files reports it
        problems = list(misfits(state, trained))
        if problems:
            more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            yield unfit(folder, f"{folder.name}: {', '.join(problems[:SHOWN])}{more}")
        else:
            sound.append((folder, state, trained))
    if not sound:
        if damaged:
            yield skipped(f"{', '.join(damaged)}: see checkpoint-files")
        elif context.checkpoints:
            yield skipped("no checkpoint whose optimizer state could be compared")
        return
    folder, state, trained = sound[-1]
    masters = sum(name.startswith("master.") for name in state)
    kept = f", {masters} float32 masters" if masters else ""
    seen = f"{', '.join(f.name for f, _, _ in sound)}: {len(state)} arrays fit {len(trained)} weights{kept}"
    yield ok(seen, arrays=len(state), weights=len(trained), masters=masters)


def unfit(folder: Path, seen: str) -> Finding:
    """The error for a checkpoint whose optimizer state does not fit its weights, or lacks either."""
    others = [other for other in siblings(folder) if not damage_of(other)]
    usable = next((each for each in (folder, *reversed(others)) if has_weights(each)), None)
    if usable is None:
        cure = "copy the whole checkpoint again: no other checkpoint of the run has intact weights"
        return error(seen, cure, f"ls -l {quoted(folder)}")
    return error(
        seen,
        "the files come from two runs: use another checkpoint, or start a new run from the weights alone",
        f"grpo train --config {quoted(usable / 'config.toml')} --set {quoted(f'model_name={usable}')} "
        "--set run_name=NAME",
    )


def has_weights(folder: Path) -> bool:
    """True if the weights of a checkpoint can be read."""
    try:
        return bool(trained_weights(folder))
    except (OSError, DamagedFile):
        return False


def trained_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that a run trains: the adapters if there are any, else all.

    Raises OSError or DamagedFile for files that are missing or damaged.
    """
    if (folder / "adapter_config.json").exists():
        return read_header(folder / ADAPTERS)
    found = tensors_in(folder)
    if not found:
        raise FileNotFoundError(2, "no weights", str(folder / "model.safetensors"))
    return found


def misfits(state: dict[str, Tensor], trained: dict[str, Tensor]) -> Iterator[str]:
    """Mismatches: optimizer arrays without a weight or of another shape, and weights without state.

    `rule.<weight>.m` and `.v` have the weight's shape, `master.<weight>` is its float32 copy.
    """
    served: set[str] = set()
    masters: set[str] = set()
    for name, tensor in state.items():
        kind, _, rest = name.partition(".")
        weight = rest if kind == "master" else rest.rpartition(".")[0]
        if kind == "rule" and not weight:
            continue  # step and learning_rate belong to no weight
        if kind not in ("rule", "master") or weight not in trained:
            yield f"{name} belongs to no weight"
        elif tensor.shape != trained[weight].shape:
            yield f"{name} has the shape {tensor.shape}, its weight {trained[weight].shape}"
        elif kind == "master" and tensor.dtype != "F32":
            yield f"{name} is {tensor.dtype}, not float32"
        (masters if kind == "master" else served).add(weight)
    yield from (f"{weight} has no state" for weight in trained if weight not in served)
    half = [weight for weight, tensor in trained.items() if tensor.dtype in ("F16", "BF16")]
    yield from (f"{weight} has no float32 master" for weight in half if weight not in masters)
