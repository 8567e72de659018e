"""The state of the machine that a run works on: memory pressure, swap, heat, battery, lid.

    facts = read_facts(System())
    facts.memory, facts.heat, facts.battery        # 1 (of 0 to 2), "thermal warning level 1", "63%"

A Mac is asked by its own commands, Linux by the files of its kernel. Their differences are all here.
"""

import re
from dataclasses import dataclass

from grpo_cli.engine.host.system import System

THERMAL, POWER = "/sys/class/thermal", "/sys/class/power_supply"
LID = "/proc/acpi/button/lid"
NORMAL, WARNING, CRITICAL = 0, 1, 2  # levels of memory pressure
MAC_LEVELS = {"1": NORMAL, "2": WARNING, "4": CRITICAL}  # of kern.memorystatus_vm_pressure_level
# Linux, percent of the last 10 seconds in which some or all tasks waited for memory (kernel, accounting/psi).
SOME_WAITED, ALL_WAITED = 10.0, 10.0
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
LEAST_AVAILABLE, TOO_LITTLE = 0.03, 0.01  # Linux without pressure information: shares of the memory


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """One reading. What cannot be read counts as normal."""

    memory: int = NORMAL  # pressure: NORMAL, WARNING or CRITICAL
    swapped: int = 0  # bytes
    heat: str = ""  # the reason for throttling; empty: none
    battery: str = ""  # the charge, if on battery


def read_facts(system: System) -> HostFacts:
    """Read the machine's state: four short commands on a Mac, files on Linux."""
    if system.system == "Darwin":
        level = system.output("sysctl", "-n", "kern.memorystatus_vm_pressure_level") or ""
        return HostFacts(
            memory=MAC_LEVELS.get(level, NORMAL),
            swapped=swapped(system)[1] or 0,
            heat=throttled(system.output("pmset", "-g", "therm") or ""),
            battery=mac_battery(system.output("pmset", "-g", "batt") or ""),
        )
    return HostFacts(
        memory=linux_pressure(system),
        swapped=swapped(system)[1] or 0,
        heat=linux_heat(system) or "",
        battery=linux_battery(system) or "",
    )


def is_lid_closed(system: System) -> bool:
    """True if the machine has a lid and it is closed."""
    if system.system == "Darwin":
        told = system.output("ioreg", "-r", "-k", "AppleClamshellState", "-d", "4") or ""
        return '"AppleClamshellState" = Yes' in told
    states = (read(system, f"{LID}/{name}/state") for name in system.names(LID))
    return any(state.endswith("closed") for state in states)


def mac_battery(pmset: str) -> str:
    """The charge in `pmset -g batt` if it says that the Mac is on battery; else empty."""
    charge = re.search(r"(\d{1,3}%)", pmset)
    return (charge[1] if charge else "charge unknown") if "Battery Power" in pmset else ""


def linux_pressure(system: System) -> int:
    """Memory pressure on Linux: by the time that tasks wait for memory, and by what is available."""
    waited = dict(
        re.findall(r"^(some|full) avg10=(\d+\.\d+)", read(system, "/proc/pressure/memory"), re.MULTILINE)
    )
    fields = meminfo(system)
    total, free = fields.get("MemTotal", 0), fields.get("MemAvailable")
    share = free / total if free is not None and total else 1.0
    if float(waited.get("full", 0)) >= ALL_WAITED or share < TOO_LITTLE:
        return CRITICAL
    return WARNING if float(waited.get("some", 0)) >= SOME_WAITED or share < LEAST_AVAILABLE else NORMAL


def throttled(pmset: str) -> str:
    """The throttling that `pmset -g therm` reports; empty if none."""
    found = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", pmset)
    if found and int(found[1]) < 100:
        return f"CPU_Speed_Limit = {found[1]} %"
    level = re.search(r"(?:thermal|performance) warning level(?: set to|:)?\s*(\d+)", pmset, re.IGNORECASE)
    return f"thermal warning level {level[1]}" if level and int(level[1]) > 0 else ""


def linux_battery(system: System) -> str | None:
    """Charge of a system battery that is discharging. Empty: none is; None: no battery."""
    found = None
    for name in system.names(POWER):
        folder = f"{POWER}/{name}"
        kind, scope = (read(system, f"{folder}/{file}") for file in ("type", "scope"))
        if kind == "Battery" and scope != "Device":  # scope Device: a mouse's battery
            found = found or ""
            if read(system, f"{folder}/status") == "Discharging":
                found = f"{read(system, f'{folder}/capacity') or '?'}%"
    return found


def linux_heat(system: System) -> str | None:
    """The first thermal zone hot enough for throttling. Empty: none is; None: no zones to read."""
    found = None
    for name in system.names(THERMAL):
        folder = f"{THERMAL}/{name}"
        degrees = number(read(system, f"{folder}/temp"))
        if not name.startswith("thermal_zone") or degrees is None:
            continue
        found = found or ""
        for point in range(12):
            kind = read(system, f"{folder}/trip_point_{point}_type")
            limit = number(read(system, f"{folder}/trip_point_{point}_temp"))
            if kind in ("passive", "hot") and limit is not None and limit > 0 and degrees >= limit:
                return (
                    f"{read(system, f'{folder}/type')} at {degrees / 1000:.0f} °C (limit {limit / 1000:.0f})"
                )
    return found


def read(system: System, path: str) -> str:
    """A small system file's text, stripped; empty if it cannot be read."""
    return (system.text(path) or "").strip()


def number(text: str) -> int | None:
    """A whole number of thousandths of a degree, or None for other text."""
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else None


def meminfo(system: System) -> dict[str, int]:
    """The fields of /proc/meminfo in bytes."""
    lines = re.findall(r"^(\w+):\s*(\d{1,18}) kB", system.text("/proc/meminfo") or "", re.MULTILINE)
    return {name: int(kilobytes) * 1024 for name, kilobytes in lines}


def swapped(system: System) -> tuple[int | None, int | None]:
    """Size of the swap space and the used part, in bytes; None: unknown."""
    if system.system == "Darwin":
        told = system.output("sysctl", "-n", "vm.swapusage") or ""
        sizes = {
            name: int(float(number) * UNITS[unit])
            for name, number, unit in re.findall(
                r"(total|used) = (\d+(?:[.]\d+)?)([KMGT])", told.replace(",", ".")
            )
        }
        return sizes.get("total"), sizes.get("used")
    fields = meminfo(system)
    space, free = fields.get("SwapTotal"), fields.get("SwapFree")
    return space, None if space is None or free is None else space - free
