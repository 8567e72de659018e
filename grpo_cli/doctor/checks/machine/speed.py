"""Checks of this machine's speed: matrix products and their precision, memory bandwidth, heat, battery."""

import re
from collections.abc import Iterator

from grpo_cli.device import TF32_SWITCH, rounds_float32
from grpo_cli.doctor.checks.machine.installing import install, nvidia_driver
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, ok, skipped, warning
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.engine.host.facts import linux_battery, linux_heat, mac_battery, throttled

OWN_BLAS = "mlx"  # the probe's name for the slow BLAS
THROTTLES = "clocks_throttle_reasons.sw_thermal_slowdown,clocks_throttle_reasons.hw_thermal_slowdown"


def matrix_product(context: Context) -> Iterator[Finding]:
    """Speed of a matrix product, and the BLAS that computes it."""
    speed, blas = context.probe.get("gflops"), context.probe.get("blas") or {}
    if not isinstance(speed, int | float):
        yield skipped("MLX does not work here")
        return
    kind, name = context.probe.get("device"), str(blas.get("name", ""))
    known = " ".join(part for part in (name, str(blas.get("version") or "")) if part)
    library = f" with {known} on {blas.get('threads') or '?'} threads" if name and name != OWN_BLAS else ""
    seen = f"{speed:,.0f} GFLOP/s in float32 on {kind}{library}"
    numbers = {"gflops": round(speed, 1), "device": kind, "blas": name or None}
    if kind == "cpu" and context.machine.system == "Linux" and name == OWN_BLAS:
        yield slow_product(context.machine, f"{seen}, with MLX's own slow BLAS ({blas.get('note')})", numbers)
    else:
        yield ok(seen, **numbers)


def slow_product(machine: Machine, seen: str, numbers: dict[str, object]) -> Finding:
    """The warning for MLX's slow BLAS: the fast one is switched off, missing or unusable."""
    if machine.environment.get("GRPO_FAST_BLAS"):
        return warning(seen, "let grpo use a fast one instead", "unset GRPO_FAST_BLAS", **numbers)
    words = "install a fast one; grpo finds it automatically"
    return warning(seen, words, *install(machine, "scipy-openblas32", again=True), **numbers)


def memory_bandwidth(context: Context) -> Iterator[Finding]:
    """Speed of the memory."""
    speed = context.probe.get("bandwidth_gb_s")
    if isinstance(speed, int | float):
        yield ok(f"{speed:,.0f} GB/s read and written", gb_per_second=round(speed, 1))
    else:
        yield skipped("MLX does not work here")


def float32_products(context: Context) -> Iterator[Finding]:
    """Precision of float32 products: in full, or rounded to TF32."""
    machine, kind = context.machine, context.probe.get("device")
    if kind not in ("cpu", "metal", "cuda"):
        yield skipped("MLX does not work here")
        return
    macos = machine.output("sw_vers", "-productVersion") or "" if machine.system == "Darwin" else ""
    rounds = rounds_float32(kind, context.probe.get("info") or {}, macos)
    if not rounds:
        yield ok("computed in full", tf32=False)
    elif machine.environment.get(TF32_SWITCH) == "0":
        yield ok(f"computed in full ({TF32_SWITCH}=0)", tf32=False)
    elif context.config and context.config.exact_float32:
        yield ok("computed in full in this configuration (exact_float32 = true)", tf32=False)
    else:
        yield ok("computed as TF32, 10 bits of mantissa; `exact_float32 = true` has 23, slower", tf32=True)


def power(context: Context) -> Iterator[Finding]:
    """The machine is not slowed down by heat and not on battery."""
    machine = context.machine
    on_battery, hot = (mac_power if machine.system == "Darwin" else linux_power)(machine)
    hot = hot or (hot_card(machine) if nvidia_driver(machine) else hot)
    if on_battery:
        yield warning(
            f"on battery ({on_battery})",
            "connect the charger: on battery it computes more slowly, and an overnight run drains it",
            "grpo doctor --explain long-runs",
            on_battery=True,
        )
    if hot:
        yield warning(
            f"slowed down: {hot}",
            "let it cool: on a hard surface, with its vents free, away from the sun; then check again",
            "grpo doctor --only speed",
            throttled=True,
        )
    if on_battery is None and hot is None:
        yield skipped("neither heat nor battery can be read here")
    elif not on_battery and not hot:
        told = ["not on battery"] * (on_battery is not None) + ["not slowed down by heat"] * (hot is not None)
        yield ok(", ".join(told), on_battery=on_battery is not None and bool(on_battery), throttled=bool(hot))


def mac_power(machine: Machine) -> tuple[str | None, str | None]:
    """Battery charge if on battery, and the reason for throttling, on a Mac. Empty: no; None: unknown."""
    source = machine.output("pmset", "-g", "batt")
    heat = machine.output("pmset", "-g", "therm")
    settings = machine.output("pmset", "-g") or ""
    on_battery = None if source is None else mac_battery(source)
    hot = None if heat is None else throttled(heat)
    if re.search(r"^\s*lowpowermode\s+1", settings, re.MULTILINE):
        hot = hot or "Low Power Mode is on (System Settings, Battery)"
    return on_battery, hot


def linux_power(machine: Machine) -> tuple[str | None, str | None]:
    """Battery and throttling on Linux, in the form of `mac_power`."""
    return linux_battery(machine), linux_heat(machine)


def hot_card(machine: Machine) -> str | None:
    """The reason if an NVIDIA card throttles for heat. Empty: it does not; None: `nvidia-smi` fails."""
    told = machine.output("nvidia-smi", f"--query-gpu={THROTTLES}", "--format=csv,noheader")
    if told is None:
        return None
    hot = any(value.strip() == "Active" for line in told.splitlines() for value in line.split(","))
    return "the card's clocks are lowered because of heat" if hot else ""
