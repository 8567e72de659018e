"""Checks of the disks: free space, the output folder, the hub's cache, and stale files."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_cli.config.local_model import hub_cache
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.stale_files import StaleFile, found_in, measured
from grpo_cli.foreign_text import quoted

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config

LEAST_FREE = 5e9  # bytes, if the size of the checkpoints is unknown
LEAST_FOR_DOWNLOADS = 10e9  # bytes; a model of 3 billion numbers takes 6 GB, one of 7 billion 15
SMALL_FILES = 16 << 20  # of a checkpoint: tokenizer, state and configuration


def disk_space(context: Context) -> Iterator[Finding]:
    """Free space compared with the size of the run's checkpoints."""
    folder = output_of(context)
    free = context.machine.free_bytes(folder)
    if free is None:
        yield skipped(f"the free space on the disk of {folder} is unknown")
        return
    size = checkpoint_bytes(context)
    if size is None or context.config is None:
        yield unplanned(folder, free)
    else:
        yield planned(context.config, folder, free, size)


def unplanned(folder: Path, free: int) -> Finding:
    """The finding for free bytes when the size of the checkpoints is unknown."""
    seen = f"{free / 1e9:.1f} GB free for {folder}"
    if free >= LEAST_FREE:
        return ok(seen, free_bytes=free)
    return warning(
        seen,
        "free some space, or write elsewhere: a checkpoint of a model of 0.5 billion parameters takes 7 GB",
        "du -sh * | sort -h",
        'output_dir = "/OTHER/DISK/outputs"',
        free_bytes=free,
    )


def planned(config: "Config", folder: Path, free: int, size: int) -> Finding:
    """The finding for free bytes when each checkpoint takes `size` bytes."""
    count = most_checkpoints(config)
    what = f"{count} checkpoints of {size / 1e9:.2f} GB" if count > 1 else "one checkpoint"
    seen = f"{free / 1e9:.1f} GB free for {folder}; {what} will take {count * size / 1e9:.2f} GB"
    numbers = {"free_bytes": free, "checkpoint_bytes": size, "checkpoints": count}
    elsewhere = 'output_dir = "/OTHER/DISK/outputs"'
    if free < size:
        words = "free some space or write elsewhere: not even one checkpoint fits"
        return error(seen, words, "du -sh * | sort -h", elsewhere, **numbers)
    if free < count * size:
        fit = int(free / size) - 3
        keep = [f"keep_checkpoints = {fit}"] if fit >= 1 else ["save_steps = 0"]
        words = "keep fewer checkpoints" if fit >= 1 else "save only at the end, or free some space"
        return warning(seen, f"{words}, or write elsewhere", *keep, elsewhere, **numbers)
    return ok(seen, **numbers)


def most_checkpoints(config: "Config") -> int:
    """The largest number of checkpoints that are on the disk at once."""
    if not config.save_steps:
        return 1
    # In addition to those kept: the best, `final`, and the one being written before an old one is deleted.
    most = config.keep_checkpoints + 3
    return min(most, config.max_steps // config.save_steps + 1) if config.max_steps else most


def checkpoint_bytes(context: Context) -> int | None:
    """Size of one checkpoint in bytes; None if the configuration's model is not on this machine."""
    from grpo_cli.doctor.read.config_memory import needed, weights_in, with_warm_start

    folder = context.configured_model
    if context.config is None or folder is None:
        return None
    weights = weights_in(folder)
    needs = needed(context.config, folder, context.on_cpu)
    if weights is None or needs is None:
        return None
    config = with_warm_start(context.config)
    if config.lora_rank:
        adapters = 4 * weights.adapters(config.lora_rank, config.lora_layers)
        copies = 2 if config.adapter else 1  # of those that the run started from, too
        return copies * adapters + needs.optimizer + SMALL_FILES
    copies = 2 if context.config.kl_coeff > 0 else 1  # the reference is in memory only
    return needs.weights // copies + needs.optimizer + SMALL_FILES


def output_of(context: Context) -> Path:
    """The folder that runs are written to."""
    return Path(context.config.output_dir if context.config else "outputs")


def output_folder(context: Context) -> Iterator[Finding]:
    """The output folder can be written."""
    folder = output_of(context)
    refusal = context.machine.refusal(folder)
    if not refusal:
        yield ok(f"{folder} can be written", folder=str(folder))
        return
    name = quoted(folder)
    yield error(
        f"Failed to save checkpoint: {refusal}: {folder}",
        "make it writable, or choose another folder",
        f"mkdir -p {name} && chmod u+rwx {name}",
        f"df -h {name}",
        'output_dir = "/OTHER/DISK/outputs"',
        folder=str(folder),
        reason=refusal,
    )


def hub_cache_size(context: Context) -> Iterator[Finding]:
    """The hub's cache: its folder, its size and the free space."""
    folder = hub_cache(context.machine.environment)
    free = context.machine.free_bytes(folder)
    size, complete = measured(folder)
    least = "" if complete else "at least "
    left = "free space unknown" if free is None else f"{free / 1e9:.1f} GB free on its disk"
    seen = f"{folder}: {least}{size / 1e9:.1f} GB, {left}"
    numbers = {"folder": str(folder), "bytes": size, "complete": complete, "free_bytes": free}
    move = ("export HF_HOME=/OTHER/DISK/huggingface",)
    if free is not None and free < LEAST_FOR_DOWNLOADS:
        words = "a download may not fit: delete models that are no longer used, or keep them on another disk"
        yield warning(seen, words, "hf cache ls", "hf cache rm REPOSITORY", *move, **numbers)
    else:
        yield ok(seen, **numbers)


def leftovers(context: Context) -> Iterator[Finding]:
    """No temporary files of killed `grpo` processes are left."""
    found = list(found_in(places(context)))
    old = [each for each in found if each.is_abandoned]
    kept = [each for each in found if each.is_aside]
    at_work = len(found) - len(old) - len(kept)
    aside = f"{len(kept)} set aside by a resumed run, {total(kept)}: yours to keep or delete" if kept else ""
    numbers = {"abandoned": [each.as_row() for each in old], "aside": [each.as_row() for each in kept]}
    if old:
        told = f"{len(old)} left by processes that were killed, {total(old)}" + (
            f"; {aside}" if aside else ""
        )
        commands = [remedy(each) for each in old]
        lost = any(each.original for each in old)
        words = "rename the only copies back, and delete the others" if lost else "delete them"
        yield warning(told, words, *commands, **numbers)
        return
    busy = [f"{at_work} of a process that is running or ended less than an hour ago"] if at_work else []
    yield ok("; ".join([*busy, *([aside] if aside else [])]) or "none", **numbers)


def remedy(stale: StaleFile) -> str:
    """The command that deletes a stale file, or restores its name if it is the only copy."""
    path = quoted(stale.path)
    return f"mv {path} {quoted(stale.original)}" if stale.original else f"rm -r {path}"


def places(context: Context) -> list[Path]:
    """Folders to search for stale files: the output folder and its runs, models/ and the current folder."""
    output = output_of(context)
    try:
        runs = sorted(path for path in output.iterdir() if path.is_dir() and not path.is_symlink())
    except (OSError, ValueError):
        runs = []
    named = [context.run] if context.run else []
    return list(dict.fromkeys([*runs, output, *named, Path("models"), Path()]))


def total(found: list[StaleFile]) -> str:
    """Their total size in words, such as `1.2 GB`."""
    size = sum(each.size for each in found)
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
