"""The machine's state, from what its commands print and its files say."""

import pytest

from grpo_cli.engine.host.facts import CRITICAL, NORMAL, WARNING, HostFacts, is_lid_closed, read_facts
from tests.support.machines import HEALTHY, RecordedMachine

PSI = "{} avg10={} avg60=0.00 avg300=0.00 total=0\n"
LEVEL = "sysctl -n kern.memorystatus_vm_pressure_level"
HOT = "Note: No performance warning level has been recorded\nThermal Warning Level set to 1"


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_is_under_no_pressure(name: str) -> None:
    facts = read_facts(RecordedMachine(name))
    assert (facts.memory, facts.heat, facts.battery) == (NORMAL, "", "")
    assert not is_lid_closed(RecordedMachine(name))


@pytest.mark.parametrize(("told", "level"), [("1", NORMAL), ("2", WARNING), ("4", CRITICAL), ("", NORMAL)])
def test_a_mac_tells_its_level(told: str, level: int) -> None:
    assert read_facts(RecordedMachine("m1_macos14", outputs={LEVEL: told})).memory == level


def test_a_mac_in_trouble() -> None:
    outputs = {
        LEVEL: "4",
        "sysctl -n vm.swapusage": "total = 3072.00M  used = 2048.00M  free = 1024.00M  (encrypted)",
        "pmset -g therm": HOT,
        "pmset -g batt": "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t63%; discharging",
        "ioreg -r -k AppleClamshellState -d 4": '+-o Root\n  "AppleClamshellState" = Yes\n',
    }
    machine = RecordedMachine("m1_macos14", outputs=outputs)
    assert read_facts(machine) == HostFacts(
        memory=CRITICAL, swapped=2048 << 20, heat="thermal warning level 1", battery="63%"
    )
    assert is_lid_closed(machine)


@pytest.mark.parametrize(
    ("some", "full", "available", "level"),
    [
        (9.99, 0.0, 4_000_000, NORMAL),
        (10.0, 0.0, 4_000_000, WARNING),
        (30.0, 9.99, 4_000_000, WARNING),
        (30.0, 10.0, 4_000_000, CRITICAL),
        (0.0, 0.0, 480_000, NORMAL),  # of 16,000,000 kB: 3 %
        (0.0, 0.0, 479_999, WARNING),
        (0.0, 0.0, 159_999, CRITICAL),
    ],
)
def test_linux_by_its_files(some: float, full: float, available: int, level: int) -> None:
    files = {
        "/proc/pressure/memory": PSI.format("some", f"{some:.2f}") + PSI.format("full", f"{full:.2f}"),
        "/proc/meminfo": (
            f"MemTotal: 16000000 kB\nMemAvailable: {available} kB\nSwapTotal: 2000 kB\nSwapFree: 500 kB\n"
        ),
    }
    assert read_facts(RecordedMachine("linux_cpu", files=files)) == HostFacts(
        memory=level, swapped=1500 * 1024
    )


def test_linux_in_other_trouble() -> None:
    battery = "/sys/class/power_supply/BAT0"
    lid = "/proc/acpi/button/lid"
    files = {
        f"{battery}/type": "Battery\n",
        f"{battery}/status": "Discharging\n",
        f"{battery}/capacity": "81\n",
        "/sys/class/thermal/thermal_zone0/temp": "97000\n",
        f"{lid}/LID0/state": "state:      closed\n",
    }
    folders = {"/sys/class/power_supply": ["BAT0"], lid: ["LID0"], "/sys/class/thermal": ["thermal_zone0"]}
    machine = RecordedMachine("linux_cuda", files=files, folders=folders)
    facts = read_facts(machine)
    assert (facts.battery, facts.heat) == ("81%", "x86_pkg_temp at 97 °C (limit 95)")
    assert is_lid_closed(machine)


def test_a_machine_that_tells_nothing_counts_as_normal() -> None:
    silent = RecordedMachine("m1_macos14")
    silent.record["outputs"] = {}
    assert read_facts(silent) == HostFacts()
    empty = RecordedMachine("linux_cpu")
    empty.record["files"] = {}
    assert read_facts(empty) == HostFacts()
