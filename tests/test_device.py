"""What follows from a device, from reports of the shape that MLX gives on machines of each kind.

Only the Linux CPU was at hand; the Macs' sizes are those that their owners have published.
"""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from grpo_cli import device
from grpo_cli.cpu.blas import BlasReport
from grpo_cli.device import Device
from grpo_cli.errors import ConfigError

GIB = 1 << 30
M1: device.Info = {  # MacBook Air, 16 GB, macOS 14
    "architecture": "applegpu_g13g",
    "device_name": "Apple M1",
    "max_recommended_working_set_size": 11_453_251_584,
    "memory_size": 17_179_869_184,
}
M3_MAX: device.Info = {  # MacBook Pro, 64 GB, macOS 15; MLX of that time reported no device_name
    "architecture": "applegpu_g15s",
    "max_recommended_working_set_size": 51_539_607_552,
    "memory_size": 68_719_476_736,
}
CUDA: device.Info = {  # one card under Linux
    "architecture": "sm_90",
    "device_name": "NVIDIA H100 80GB HBM3",
    "total_memory": 84_929_347_584,
    "free_memory": 84_000_000_000,
}
M5: device.Info = {  # MacBook Pro, 24 GB
    "architecture": "applegpu_g17g",
    "device_name": "Apple M5",
    "max_recommended_working_set_size": 19_069_665_280,
    "memory_size": 25_769_803_776,
}
LINUX_CPU: device.Info = {"architecture": "x86_64", "device_name": "AMD EPYC"}


def test_a_mac_keeps_the_dtype_and_compiles() -> None:
    expected = Device(
        kind="metal", name="Apple M1", memory_bytes=17_179_869_184, working_set_bytes=11_453_251_584
    )
    assert device.describe("metal", M1, 16 * GIB, None) == expected
    assert (expected.upcast, expected.compile, expected.blas) == (False, True, None)
    assert device.describe("metal", M3_MAX, 64 * GIB, None).name == "applegpu_g15s"


def test_a_card_has_its_own_memory_not_the_machines() -> None:
    assert device.describe("cuda", CUDA, 128 * GIB, None) == Device(
        kind="cuda",
        name="NVIDIA H100 80GB HBM3",
        memory_bytes=84_929_347_584,
        upcast=False,
        compile=True,
        rounds_float32=True,
    )
    expected = Device(kind="cuda", name="cuda", memory_bytes=None, rounds_float32=True)
    assert device.describe("cuda", {}, 128 * GIB, None) == expected


def test_a_cpu_upcasts_and_does_not_compile() -> None:
    report = BlasReport(name="openblas", path="/usr/lib/libopenblas.so.0", threads=2, gflops=140.0)
    assert device.describe("cpu", LINUX_CPU, 8 * GIB, report) == Device(
        kind="cpu", name="AMD EPYC", memory_bytes=8 * GIB, upcast=True, compile=False, blas=report
    )


@pytest.mark.parametrize(
    ("info", "macos", "limit"),
    [
        (M1, "14.7.1", None),  # memory cannot be wired before macOS 15
        (M1, "15.0", 11_453_251_584),
        (M3_MAX, "15.6", 51_539_607_552),
        (M3_MAX, "26.1", 51_539_607_552),
        (CUDA, "", None),
        ({"memory_size": 16 * GIB}, "15.6", None),  # nothing recommended: nothing wired
    ],
)
def test_wired_limit_is_the_recommended_size(info: device.Info, macos: str, limit: int | None) -> None:
    assert device.wired_limit(info, macos) == limit


@pytest.mark.parametrize(
    ("kind", "info", "macos", "rounds"),
    [
        ("metal", M1, "26.2", False),
        ("metal", M3_MAX, "26.3", False),
        ("metal", M5, "26.2", True),
        ("metal", M5, "27.0.1", True),
        ("metal", M5, "26.1", False),  # MLX uses its matrix units from 26.2 on
        ("metal", M5, "", False),
        ("metal", {}, "26.2", False),
        ("cuda", CUDA, "", True),
        ("cpu", LINUX_CPU, "", False),
        ("cpu", M5, "26.2", False),  # GRPO_DEVICE=cpu on a Mac
    ],
)
def test_which_devices_round_float32(kind: device.Kind, info: device.Info, macos: str, rounds: bool) -> None:
    assert device.rounds_float32(kind, info, macos) is rounds
    assert device.describe(kind, info, 16 * GIB, None, macos).rounds_float32 is rounds


def test_exact_float32_is_switched_on_by_mlx_s_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    monkeypatch.setattr(device, "prepare", lambda: device.describe("cuda", CUDA, None, None))
    assert not device.is_float32_exact()
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    assert not device.is_float32_exact()
    device.require_exact_float32()
    assert device.is_float32_exact()
    assert os.environ["MLX_ENABLE_TF32"] == "0"


@pytest.mark.parametrize(
    ("requested", "metal", "cuda", "kind"),
    [
        ("", True, False, "metal"),
        ("", False, True, "cuda"),
        ("", False, False, "cpu"),
        ("cpu", True, False, "cpu"),
        ("metal", True, False, "metal"),
        ("cuda", False, True, "cuda"),
    ],
)
def test_choice_of_device(requested: str, metal: bool, cuda: bool, kind: str) -> None:
    assert device.choose_kind(requested, metal, cuda) == kind


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError) as caught:
        device.choose_kind("cuda", metal=False, cuda=False)
    assert caught.value.message == "Device not available: GRPO_DEVICE=cuda"
    assert caught.value.hint == (
        "set GRPO_DEVICE to `cpu`, or unset it; for a CUDA card install `grpo-cli[cuda13]`"
    )
    with pytest.raises(ConfigError) as caught:
        device.choose_kind("tpu", metal=True, cuda=False)
    assert caught.value.hint == "set GRPO_DEVICE to `metal` or `cpu`, or unset it"


@pytest.mark.parametrize(
    ("requested", "system", "cuda_installed", "expected"),
    [
        ("", "linux", False, True),
        ("", "linux", True, False),
        ("cpu", "linux", True, True),
        ("", "darwin", False, False),
        ("cpu", "darwin", False, True),
    ],
)
def test_a_cpu_is_foreseen_before_mlx_is_imported(
    requested: str, system: str, cuda_installed: bool, expected: bool
) -> None:
    assert device.expects_cpu(requested, system, cuda_installed) is expected


def test_installed_packages() -> None:
    assert device.installed(("no-such-distribution", "mlx"))
    assert not device.installed(("no-such-distribution",))


@pytest.mark.parametrize(
    ("physical", "limits", "usable"),
    [
        (16 * GIB, [], 16 * GIB),
        (16 * GIB, ["max\n"], 16 * GIB),  # cgroup v2 without a limit
        (16 * GIB, ["4294967296\n"], 4 * GIB),
        (16 * GIB, ["9223372036854771712\n"], 16 * GIB),  # cgroup v1 without a limit
        (-1, [], None),
    ],
)
def test_usable_memory(physical: int, limits: list[str], usable: int | None) -> None:
    assert device.usable_memory(physical, limits) == usable


def test_prepare_is_made_once_and_holds_here() -> None:
    here = device.prepare()
    assert device.prepare() is here
    assert mx.default_device() == (mx.cpu if here.kind == "cpu" else mx.gpu)
    if here.kind == "cpu":
        calls = []

        def add_one(x: mx.array) -> mx.array:
            calls.append(1)
            return x + 1

        traced = mx.compile(add_one)
        assert [traced(mx.array(1)).item(), traced(mx.array(2)).item()] == [2, 3]
        assert len(calls) == 2  # called, not compiled
        assert mx.set_cache_limit(device.CPU_CACHE_BYTES) == device.CPU_CACHE_BYTES  # returns the old one


def test_peak_memory_counts_an_array_of_40_megabytes() -> None:
    x = mx.zeros((10_000_000,)) + 1  # float32
    device.reset_peak_memory()
    mx.eval(x)
    assert 0.04 <= device.peak_memory_gb() < 0.2
    device.reset_peak_memory()
    assert device.peak_memory_gb() < 0.04 + 1e-9


LIGHT = """
import sys
import grpo_cli.device
heavy = {"mlx", "mlx_lm", "transformers", "datasets", "tiktoken", "numpy"} & set(sys.modules)
print(sorted(heavy))
grpo_cli.device.prepare()
import os
print(os.environ.get("MLX_DISABLE_COMPILE"))
"""


def test_importing_is_light_and_a_cpu_is_chosen_before_mlx() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIGHT],
        env={"GRPO_DEVICE": "cpu", "PATH": ""},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("[]\n1\n", "")


# --- how much memory there is -------------------------------------------------------------------------

MEMINFO = (
    "MemTotal:       24689764 kB\nMemFree:          511000 kB\nMemAvailable:   20000000 kB\nHugePages: 0\n"
)


def test_available_memory_is_what_linux_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert device.available_memory(tmp_path / "meminfo") == 20_000_000 * 1024
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert device.available_memory(tmp_path / "meminfo") is None
    assert device.available_memory(tmp_path / "none") is None


def test_the_budget_of_each_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "get_active_memory", lambda: 3 * GIB)
    monkeypatch.setattr(device, "available_memory", lambda _: 10 * GIB)
    assert device.memory_budget(device.describe("metal", M1, 16 * GIB, None)) == 11_453_251_584
    assert (
        device.memory_budget(Device(kind="cpu", name="EPYC", memory_bytes=24 * GIB, upcast=True)) == 13 * GIB
    )
    assert (
        device.memory_budget(Device(kind="cpu", name="EPYC", memory_bytes=8 * GIB, upcast=True)) == 8 * GIB
    )  # a container's limit
    monkeypatch.setattr(mx, "device_info", lambda: CUDA)
    assert device.memory_budget(device.describe("cuda", CUDA, 64 * GIB, None)) == 84_000_000_000 + 3 * GIB
    monkeypatch.setattr(device, "available_memory", lambda _: None)
    assert (
        device.memory_budget(Device(kind="cpu", name="other", memory_bytes=24 * GIB, upcast=True)) == 24 * GIB
    )


def test_no_library_speaks_while_it_is_imported() -> None:
    """transformers advises to install PyTorch, which no user of MLX needs."""
    program = "from grpo_cli.device import prepare; prepare(); import mlx_lm"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("", "")


@pytest.mark.parametrize(("kind", "is_entered"), [("metal", True), ("cuda", False), ("cpu", False)])
def test_only_a_mac_computes_past_its_gpu(
    kind: str, is_entered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[object] = []
    monkeypatch.setattr(device, "prepare", lambda: SimpleNamespace(kind=kind))
    monkeypatch.setattr(mx, "stream", lambda given: entered.append(given) or nullcontext())
    with device.past_the_gpu():
        pass
    assert entered == [mx.cpu] * is_entered


def test_mlx_s_streams_end_before_python_does() -> None:
    """Newer builds of MLX abort at the interpreter's end if functions were compiled and streams are left."""
    program = (
        "import atexit, mlx.core as mx\n"
        "def last():\n"  # registered first, so called last
        "    try:\n"
        "        mx.eval(mx.ones(3) + 1)\n"
        "    except RuntimeError as error:\n"
        "        print('no stream' if 'no Stream' in str(error) else error)\n"
        "atexit.register(last)\n"
        "from grpo_cli import device\n"
        "device.prepare(); mx.eval(mx.ones(3) + 1)\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "no stream"
