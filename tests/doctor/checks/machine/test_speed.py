"""Speed: read from recorded machines; the product of this one is measured."""

from typing import Any

import pytest

from grpo_cli.doctor.checks.machine import speed
from grpo_cli.doctor.context import Context
from tests.support.machines import HEALTHY, context_on, look, looks, told

SLOW = {"blas": {"name": "mlx", "threads": None, "note": "products run on mlx's slow BLAS"}, "gflops": 5.1}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_gets_no_warning(name: str) -> None:
    assert {finding.severity for finding in looks("speed", context_on(name)).values()} == {"ok"}


def test_this_machine_is_measured() -> None:
    found = looks("speed", Context())
    assert found["matrix-product"].numbers["gflops"] > 1
    assert found["memory-bandwidth"].numbers["gb_per_second"] > 0.5


def test_the_product_is_told() -> None:
    assert look("matrix-product", context_on("linux_cpu")).seen == (
        "912 GFLOP/s in float32 on cpu with scipy-openblas32 on 16 threads"
    )
    assert look("matrix-product", context_on("m1_macos14")).seen == "1,510 GFLOP/s in float32 on metal"
    assert look("memory-bandwidth", context_on("m1_macos14")).seen == "58 GB/s read and written"
    assert {f.severity for n, f in looks("speed", context_on("rosetta")).items() if n != "power"} == {
        "skipped"
    }


def test_mlx_s_own_slow_product() -> None:
    finding = look("matrix-product", context_on("linux_cpu", {"probe": SLOW}))
    assert told(finding) == (
        "warning",
        "5 GFLOP/s in float32 on cpu, with MLX's own slow BLAS (products run on mlx's slow BLAS)",
        ("uv pip install --python /home/ada/grpo-env/bin/python --force-reinstall scipy-openblas32",),
    )
    off = {"probe": SLOW, "environment": {"GRPO_FAST_BLAS": "0"}}
    assert look("matrix-product", context_on("linux_cpu", off)).commands == ("unset GRPO_FAST_BLAS",)


def test_a_product_really_made_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_FAST_BLAS", "0")
    context = Context()
    if context.machine.system != "Linux" or context.probe.get("device") != "cpu":
        pytest.skip("only MLX for a Linux CPU has a slow product")
    finding = look("matrix-product", context)
    assert (finding.severity, finding.commands) == ("warning", ("unset GRPO_FAST_BLAS",))
    assert finding.seen.endswith("(turned off by GRPO_FAST_BLAS)")


@pytest.mark.parametrize(
    ("outputs", "seen"),
    [
        (
            {"pmset -g batt": "Now drawing from 'Battery Power'\n -InternalBattery-0\t63%; discharging"},
            "on battery (63%)",
        ),
        (
            {"pmset -g therm": "CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Speed_Limit \t= 62"},
            "slowed down: CPU_Speed_Limit = 62 %",
        ),
        (
            {"pmset -g": " lowpowermode         1"},
            "slowed down: Low Power Mode is on (System Settings, Battery)",
        ),
    ],
)
def test_a_mac_that_is_slower(outputs: dict[str, str], seen: str) -> None:
    finding = look("power", context_on("m1_macos14", {"outputs": outputs}))
    assert told(finding)[:2] == ("warning", seen)
    assert finding.commands


def test_a_mac_without_a_battery() -> None:
    outputs = {"pmset -g batt": "Now drawing from 'AC Power'"}
    assert look("power", context_on("m3max_macos15", {"outputs": outputs})).seen == (
        "not on battery, not slowed down by heat"
    )


BATTERY = "/sys/class/power_supply/BAT0"


@pytest.mark.parametrize(("status", "severity"), [("Discharging", "warning"), ("Full", "ok")])
def test_a_laptop_under_linux(status: str, severity: str) -> None:
    files = {
        f"{BATTERY}/type": "Battery\n",
        f"{BATTERY}/status": f"{status}\n",
        f"{BATTERY}/capacity": "81\n",
    }
    changes = {"files": files, "folders": {"/sys/class/power_supply": ["AC", "BAT0"]}}
    finding = look("power", context_on("linux_cpu", changes))
    assert finding.severity == severity
    assert severity == "ok" or finding.seen == "on battery (81%)"
    mouse = {**changes, "files": {**files, f"{BATTERY}/scope": "Device\n"}}
    assert look("power", context_on("linux_cpu", mouse)).severity == "ok"


def test_the_precision_of_float32_products() -> None:
    def seen(name: str, **changes: Any) -> str:
        finding = look("float32-products", context_on(name, changes))
        assert finding.severity == "ok"
        return finding.seen

    rounded = "computed as TF32, 10 bits of mantissa; `exact_float32 = true` has 23, slower"
    m5 = {"info": {"architecture": "applegpu_g17s"}}
    of_26_2 = {"sw_vers -productVersion": "26.2"}
    assert seen("linux_cpu") == seen("m1_macos14") == seen("m3max_macos26") == "computed in full"
    assert seen("linux_cuda") == rounded
    assert seen("linux_cuda", environment={"MLX_ENABLE_TF32": "0"}) == "computed in full (MLX_ENABLE_TF32=0)"
    assert seen("m3max_macos26", probe=m5) == "computed in full"  # macOS 26.1
    assert seen("m3max_macos26", probe=m5, outputs=of_26_2) == rounded
    assert look("float32-products", context_on("rosetta")).severity == "skipped"
    context = context_on("linux_cuda")
    context.config_name, context.overrides = "smoke_test", ["exact_float32=true"]
    (finding,) = speed.float32_products(context)
    assert finding.seen == "computed in full in this configuration (exact_float32 = true)"


def test_a_hot_processor_and_a_hot_card() -> None:
    zone = "/sys/class/thermal/thermal_zone0"
    finding = look("power", context_on("linux_cpu", {"files": {f"{zone}/temp": "97000\n"}}))
    assert told(finding)[:2] == ("warning", "slowed down: x86_pkg_temp at 97 °C (limit 95)")
    command = next(iter(context_on("linux_cuda").machine.of("outputs")))  # type: ignore[attr-defined]
    card = look("power", context_on("linux_cuda", {"outputs": {command: "Not Active, Active"}}))
    assert card.seen == "slowed down: the card's clocks are lowered because of heat"


def test_what_cannot_be_read_is_not_guessed() -> None:
    nothing = {"folders": {"/sys/class/thermal": [], "/sys/class/power_supply": []}}
    assert told(look("power", context_on("linux_cpu", nothing))) == (
        "skipped",
        "neither heat nor battery can be read here",
        (),
    )
    silent = {"outputs": {"pmset -g batt": None, "pmset -g therm": None}}
    assert look("power", context_on("m1_macos14", silent)).severity == "skipped"
