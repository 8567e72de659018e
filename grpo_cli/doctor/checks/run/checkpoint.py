"""Checks of checkpoints: their files are intact, and the run can be resumed from one."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_cli.config.local_model import local_folder
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, warning
from grpo_cli.doctor.read.checkpoint import FINAL, damage_of, readable_step, siblings, state_of
from grpo_cli.doctor.read.hub import is_repository
from grpo_cli.errors import CheckpointError
from grpo_cli.foreign_text import quoted
from grpo_cli.untrusted_json import read_object
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.engine.run_dir.run_state import RunState


def files(context: Context) -> Iterator[Finding]:
    """Each checkpoint is intact: manifest, sizes, checksums and headers."""
    intact = [folder for folder, problem in context.damages.items() if not problem]
    for folder, problem in context.damages.items():
        if isinstance(problem, CheckpointError):
            yield error(problem.message, problem.hint, checkpoint=folder.name)
        elif problem:
            yield damaged(context, folder, problem, intact)
    if intact:
        names = ", ".join(folder.name for folder in intact)
        size = sum(path.stat().st_size for folder in intact for path in folder.rglob("*") if path.is_file())
        seen = f"{names}: every file matches its checksum (sha256), {size / 1e6:.1f} MB"
        yield ok(seen, intact=[folder.name for folder in intact], bytes=size)


def damaged(context: Context, folder: Path, problem: str, intact: list[Path]) -> Finding:
    """The finding for a damaged checkpoint: only a warning if the run can resume from another."""
    seen = f"{folder.name}: {problem}"
    numbers = {"checkpoint": folder.name, "problem": problem}
    older = intact[-1] if intact else None
    if context.run is not None and older is not None and folder.name != FINAL:
        cure = f"`grpo resume` skips it; {older.name} is intact. Copy it again from an intact source"
        return warning(seen, cure, f"mv {quoted(folder)} {quoted(f'{folder}.aside')}", **numbers)
    others = [other for other in siblings(folder) if not damage_of(other)]
    if others:
        cure = (
            f"use an intact one: {', '.join(other.name for other in others)}; or copy the whole folder again"
        )
        return error(seen, cure, f"grpo resume {quoted(others[-1])}", **numbers)
    cure = "copy the whole checkpoint again from its source; the run has no other intact one"
    return error(seen, cure, f"ls -l {quoted(folder)}", **numbers)


def resumable(context: Context) -> Iterator[Finding]:
    """The run can be resumed from an intact checkpoint."""
    chosen = newest(context)
    if chosen is None or isinstance(context.damages[chosen], CheckpointError):
        yield no_way_on(context, chosen)
        return
    state = state_of(chosen)
    problems = [
        *([broken_state(chosen, state)] if isinstance(state, str) else cut_logs(context, state)),
        *without_base(context, chosen),
        *broken_config(context, chosen),
    ]
    yield from problems
    if isinstance(state, str) or any(problem.severity == "error" for problem in problems):
        return
    step, total = state.step, state.total_steps
    where = context.run or chosen
    if chosen.name == FINAL and step == total:
        more = f"grpo resume {quoted(where)} --set max_steps={2 * step}"
        seen = f"finished: {step} of {plural(total, 'step')}; `{more}` makes it longer"
    else:
        seen = f"`grpo resume {quoted(where)}` continues from {chosen.name}, step {step} of {total}"
    older = [f.name for f, problem in context.damages.items() if not problem and f != chosen]
    seen += f"; older and intact: {', '.join(older)}" if older else ""
    yield ok(seen, checkpoint=chosen.name, step=step, total_steps=total, older=older)


def newest(context: Context) -> Path | None:
    """The checkpoint that `grpo resume` would take: the newest that is intact or of another version."""
    by_step = sorted(context.checkpoints, key=readable_step, reverse=True)
    return next(
        (f for f in by_step if not isinstance(context.damages[f], str) or not context.damages[f]), None
    )


def no_way_on(context: Context, other_version: Path | None) -> Finding:
    """The error for a run without an intact checkpoint, or whose newest is of another version."""
    if other_version is not None:
        problem = context.damages[other_version]
        assert isinstance(problem, CheckpointError)
        return error(problem.message, problem.hint)
    names = ", ".join(folder.name for folder in context.checkpoints)
    if context.checkpoint is not None:
        whole = [other for other in siblings(context.checkpoint) if not damage_of(other)]
        if whole:
            run = context.checkpoint.absolute().parent
            cure = f"the run can be resumed from {whole[-1].name}"
            return error(f"{names} is not intact", cure, f"grpo resume {quoted(run)}")
    model = next((f for f in reversed(context.checkpoints) if (f / "config.json").exists()), None)
    cure = (
        "copy an intact one back; the weights of a damaged one may still be usable: check, then train from "
        "them"
    )
    look = f"grpo doctor --only model --model {quoted(model)}" if model else "ls -l"
    return error(f"no intact checkpoint: {names}", cure, look, checkpoints=len(context.checkpoints))


def broken_state(folder: Path, reason: str) -> Finding:
    """The error for a trainer state that the engine refuses to resume from."""
    run = folder.absolute().parent
    return error(reason, f"resume from another checkpoint of {run}", f"ls {quoted(run)}")


def cut_logs(context: Context, state: "RunState") -> Iterator[Finding]:
    """Warnings for logs shorter than when the checkpoint was saved: lines of earlier steps are lost."""
    run = context.run
    if run is None:
        return
    for name, position in state.log_positions.items():
        path = run / Path(name).name
        if path.is_file() and path.stat().st_size < position:
            size = path.stat().st_size
            yield warning(
                f"{path.name} has {size:,} of the {position:,} bytes it had at step {state.step}",
                "the run can be resumed, but lines of its steps are lost: restore the whole log first",
                f"ls -l {quoted(run)}",
            )


def without_base(context: Context, folder: Path) -> Iterator[Finding]:
    """The error for adapters whose base model is not on this machine."""
    path = folder / "adapter_config.json"
    if not path.exists():
        return
    try:
        name = read_object(path).get("model")
        base = local_folder(name, context.machine.environment) if isinstance(name, str) else None
    except (OSError, ValueError) as problem:  # damaged file, or an impossible folder name
        yield error(f"{folder.name}/{path.name} {problem}", "take another checkpoint of the run")
        return
    if base is None:
        yield error(
            f"the adapters in {folder.name} belong to {name}, which is not on this machine",
            f"restore it, or write its new place into `model` of {path}",
            f"hf download {name}"
            if isinstance(name, str) and is_repository(name)
            else f"ls -l {quoted(path)}",
            base=name,
        )


def broken_config(context: Context, folder: Path) -> Iterator[Finding]:
    """Findings for an invalid config.toml: the checkpoint's (error) and the run's own (warning)."""
    from grpo_cli.config.load import inspect_config

    for place in {folder: None, **({context.run: None} if context.run else {})}:
        path = place / "config.toml"
        if not path.is_file():
            problem = "is missing"
        elif inspect_config(str(path)).loaded is None:
            problem = "is not valid"
        else:
            continue
        own = place != folder  # `grpo resume` then uses the checkpoint's
        cure = "copy the checkpoint's over it" if own else "take another checkpoint of the run"
        command = (
            f"cp {quoted(folder / 'config.toml')} {quoted(path)}"
            if own
            else f"grpo config validate {quoted(path)}"
        )
        yield (warning if own else error)(f"{path} {problem}", cure, command)
