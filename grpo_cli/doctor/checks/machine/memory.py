"""Checks of memory: its size, swap, the GPU's limit on a Mac, and the models that fit."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo_cli.device import WIRED_SINCE
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, gigabytes, ok, skipped, warning
from grpo_cli.doctor.read.wired_limit import MIB, highest_limit, raised
from grpo_cli.engine.host.facts import swapped

if TYPE_CHECKING:
    from grpo_cli.doctor.read.budget import TypicalModel

LEAST_AVAILABLE = 2e9  # bytes; with less the system swaps while a model is loaded
LEAST_SHARE = 0.1
MOST_SWAPPED = 0.25  # of the memory's size


def memory(context: Context) -> Iterator[Finding]:
    """Total and available memory."""
    from grpo_cli.doctor.read.budget import available, container_limit, total

    machine = context.machine
    size, free, limit = total(machine), available(machine), container_limit(machine)
    if size is None:
        yield skipped("the amount of memory is unknown")
        return
    what = f"{gigabytes(size)} (the container's limit)" if limit else gigabytes(size)
    numbers = {"total_bytes": size, "available_bytes": free, "container_limit_bytes": limit}
    if free is None:
        yield ok(f"{what}; the available amount is unknown", **numbers)
    elif free < max(LEAST_AVAILABLE, LEAST_SHARE * size):
        yield warning(
            f"{what}, only {gigabytes(free)} available",
            "close what uses the most: browsers, other training runs, a second copy of this run",
            "top -l 1 -o mem -n 10" if machine.system == "Darwin" else "ps aux --sort=-rss | head",
            **numbers,
        )
    else:
        yield ok(f"{what}, {gigabytes(free)} available", **numbers)


def swap(context: Context) -> Iterator[Finding]:
    """The amount of memory that is swapped out."""
    machine = context.machine
    space, used = swapped(machine)
    size = machine.memory_bytes()
    if space is None or used is None:
        yield skipped("the amount of swapped memory is unknown")
    elif size and used > MOST_SWAPPED * size:
        yield warning(
            f"{gigabytes(used)} are swapped out, of {gigabytes(size)} of memory",
            "close what uses the most; swapped memory returns slowly, so a restart is faster",
            "top -l 1 -o mem -n 10" if machine.system == "Darwin" else "ps aux --sort=-rss | head",
            swap_bytes=space,
            used_bytes=used,
        )
    else:
        yield ok(
            f"{gigabytes(used)} of {gigabytes(space)} used" if space else "none is set up",
            swap_bytes=space,
            used_bytes=used,
        )


def wired_limit(context: Context) -> Iterator[Finding]:
    """macOS: the memory that the GPU may hold, iogpu.wired_limit_mb."""
    if context.machine.system != "Darwin":
        yield skipped("only Macs have this limit")
        return
    size = context.machine.memory_bytes() or 0
    told = context.machine.output("sysctl", "-n", "iogpu.wired_limit_mb") or ""
    by_hand = int(told) * MIB if told.isdigit() and len(told) < 10 else 0
    allowed = (context.probe.get("info") or {}).get("max_recommended_working_set_size")
    allowed = allowed if isinstance(allowed, int) and allowed > 0 else by_hand
    if not size or not allowed:
        yield skipped("neither the system nor Metal reports how much the GPU may hold")
        return
    yield Limit(context, size, by_hand, allowed).finding()


class Limit:
    """Memory limit of a Mac's GPU, in bytes. `by_hand`: iogpu.wired_limit_mb as set (0: the default)."""

    def __init__(self, context: Context, size: int, by_hand: int, allowed: int) -> None:
        self.context, self.size, self.by_hand, self.allowed = context, size, by_hand, allowed
        self.highest = highest_limit(size)
        self.need = needed_here(context)
        self.version = context.machine.output("sw_vers", "-productVersion") or ""
        source = f"iogpu.wired_limit_mb={by_hand // MIB}" if by_hand else "the default"
        self.seen = f"the GPU may hold {gigabytes(allowed)} of {gigabytes(size)} ({source})"
        if self.need:
            self.seen += f"; this configuration needs about {gigabytes(self.need)}"
        self.numbers = {
            "limit_mb": by_hand // MIB,
            "allowed_bytes": allowed,
            "memory_bytes": size,
            "needed_bytes": self.need,
        }

    def finding(self) -> Finding:
        """The finding for the limit: too high, high enough, to be raised, or too low even when raised."""
        if self.by_hand > self.highest:
            return self.too_high()
        if self.need is None or self.need <= self.allowed:
            since = f"; raising it helps from macOS {WIRED_SINCE} on" if self.is_old else ""
            return ok(self.seen + since, **self.numbers)
        if self.need > max(self.highest, self.allowed):
            return self.smaller(
                f"even raised to {self.highest // MIB} MB it is too little: use smaller settings"
            )
        if self.is_old:
            return self.smaller(
                f"update to macOS {WIRED_SINCE} (before it MLX cannot keep memory wired, and a raised limit "
                "does not keep the run from being swapped), or use smaller settings"
            )
        return warning(
            self.seen,
            "raise it; the next restart brings the default back",
            f"sudo sysctl iogpu.wired_limit_mb={raised(self.need, self.highest) // MIB}",
            **self.numbers,
        )

    @property
    def is_old(self) -> bool:
        """True if MLX cannot keep memory wired on this version of macOS."""
        major = self.version.partition(".")[0]
        return major.isdigit() and int(major) < WIRED_SINCE

    def too_high(self) -> Finding:
        """The warning for a limit above what the system can spare."""
        return warning(
            f"{self.seen}, which leaves {gigabytes(self.size - self.by_hand)} for the system",
            f"leave {gigabytes(self.size - self.highest)} for the system, or return to the default with 0",
            f"sudo sysctl iogpu.wired_limit_mb={self.highest // MIB}",
            "sudo sysctl iogpu.wired_limit_mb=0",
            **self.numbers,
        )

    def smaller(self, words: str) -> Finding:
        """The warning if no limit is enough, with the keys that make the configuration smaller."""
        from grpo_cli.doctor.checks.configuration.configuration import cure_of
        from grpo_cli.doctor.read.config_memory import verdict_on

        folder = self.context.configured_model
        assert self.context.config is not None and folder is not None  # else there would be no need
        most = self.allowed if self.is_old else max(self.allowed, self.highest)
        verdict = verdict_on(self.context.config, folder, most, on_cpu=False)
        assert verdict is not None  # there is a need
        return warning(self.seen, f"{words}; {cure_of(verdict)}", *verdict.lines, **self.numbers)


def needed_here(context: Context) -> int | None:
    """Bytes that the configuration needs; None without one, or if its model is not on this machine."""
    from grpo_cli.doctor.read.config_memory import needed

    folder = context.configured_model
    if context.config is None or folder is None:
        return None
    needs = needed(context.config, folder, context.on_cpu)
    return needs.peak if needs else None


def models_that_fit(context: Context) -> Iterator[Finding]:
    """The usual models that fit into memory: for full training, for LoRA, for sampling only."""
    from grpo_cli.doctor.read.budget import MODELS, TYPICAL_WORDS, budget, width_here

    there, width = budget(context.machine, context.probe), width_here(context.probe)
    if there is None:
        yield skipped("the amount of memory is unknown")
        return
    kind = "float32" if width == 4 else "bfloat16"
    rows = [row_of(model, width, there) for model in MODELS]
    told = [f"{gigabytes(there)} available; {TYPICAL_WORDS}, {kind}; in GB:"]
    told.append(f"{'':<14}{'all weights':>12}{'LoRA':>8}{'sampling':>10}  fits")
    for row in rows:
        sizes = f"{row['full_gb']:>12.1f}{row['lora_gb']:>8.1f}{row['rollouts_gb']:>10.1f}"
        told.append(f"{row['model']:<14}{sizes}  {row['fits']}")
    yield ok("\n".join(told), budget_bytes=there, dtype=kind, models=rows)


def row_of(model: "TypicalModel", width: int, there: int) -> dict[str, str | float]:
    """A row of the table of models: its needs in GB (10⁹ bytes), and the most demanding use that fits."""
    from grpo_cli.doctor.read.budget import RANK, rollouts_alone, typical_needs

    full = typical_needs(model.shape, model.parameters, width).peak
    lora = typical_needs(model.shape, model.parameters, width, RANK).peak
    sampling = rollouts_alone(model.shape, model.parameters, width)
    fits = (
        "all"
        if full <= there
        else "LoRA"
        if lora <= there
        else "sampling"
        if sampling <= there
        else "nothing"
    )
    return {
        "model": model.name,
        "full_gb": round(full / 1e9, 1),
        "lora_gb": round(lora / 1e9, 1),
        "rollouts_gb": round(sampling / 1e9, 1),
        "fits": fits,
    }
