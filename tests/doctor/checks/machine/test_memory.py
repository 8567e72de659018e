"""Memory: read from recorded machines, and needs reckoned by hand."""

import shutil
from pathlib import Path

import pytest

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.read.budget import (
    MODELS,
    available,
    container_limit,
    total,
)
from grpo_cli.doctor.read.wired_limit import MIB
from tests.support.machines import HEALTHY, RecordedMachine, context_on, look, looks, told

GIB = 1 << 30
TINY = Path(__file__).parents[4] / "grpo_cli/models/tiny"
MEMINFO = "MemTotal: 16000000 kB\nMemAvailable: 1500000 kB\nSwapTotal: 8000000 kB\nSwapFree: 3000000 kB\n"


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_gets_no_warning(name: str) -> None:
    found = looks("memory", context_on(name))
    skipped = [] if "macos" in name else ["wired-limit"]
    assert [name for name, finding in found.items() if finding.severity == "skipped"] == skipped
    assert {finding.severity for finding in found.values()} <= {"ok", "skipped"}


def test_this_machine_says_how_much_it_has() -> None:
    found = looks("memory", Context())
    assert found["memory"].numbers["total_bytes"] > 1e9
    assert 0 < found["memory"].numbers["available_bytes"] <= found["memory"].numbers["total_bytes"]
    assert found["models-that-fit"].numbers["dtype"] in ("float32", "bfloat16")


def test_a_mac_s_pages() -> None:
    """21093 free, 270110 inactive, 8121 speculative ones of 16 KiB."""
    machine = RecordedMachine("m1_macos14")
    assert available(machine) == (21093 + 270110 + 8121) * 16384
    assert look("memory", context_on("m1_macos14")).seen == "17.2 GB, 4.9 GB available"
    assert available(RecordedMachine("m1_macos14", outputs={"vm_stat": None})) is None


def test_little_is_available() -> None:
    finding = look(
        "memory", context_on("linux_cpu", {"files": {"/proc/meminfo": MEMINFO}, "memory": 16 * 10**9})
    )
    assert told(finding) == (
        "warning",
        "16.0 GB, only 1.5 GB available",
        ("ps aux --sort=-rss | head",),
    )
    assert look("memory", context_on("linux_cpu", {"memory": None})).severity == "skipped"


def test_little_of_much_is_available() -> None:
    """9.9 of 100 GB is less than a tenth, 10.1 is not; both are more than 2 GB."""
    for kilobytes, severity in ((9_900_000, "warning"), (10_100_000, "ok")):
        files = {"/proc/meminfo": f"MemTotal: 100000000 kB\nMemAvailable: {kilobytes} kB\n"}
        changes = {"files": files, "memory": 100_000_000 * 1024}
        assert look("memory", context_on("linux_cpu", changes)).severity == severity


def test_a_container_s_limit() -> None:
    files = {"/sys/fs/cgroup/memory.max": f"{8 * GIB}\n", "/sys/fs/cgroup/memory.current": f"{3 * GIB}\n"}
    machine = RecordedMachine("linux_cpu", files=files)
    assert (total(machine), container_limit(machine), available(machine)) == (8 * GIB, 8 * GIB, 5 * GIB)
    seen = look("memory", Context(machine=machine)).seen
    assert seen == "8.6 GB (the container's limit), 5.4 GB available"
    unlimited = RecordedMachine("linux_cpu", files={"/sys/fs/cgroup/memory.max": "max\n"})
    assert container_limit(unlimited) is None
    full = RecordedMachine("linux_cpu", files=files | {"/sys/fs/cgroup/memory.current": f"{7 * GIB}"})
    assert look("memory", Context(machine=full)).severity == "warning"


def test_swap() -> None:
    assert look("swap", context_on("m1_macos14")).seen == "1.2 GB of 2.1 GB used"
    assert look("swap", context_on("m3max_macos15")).seen == "none is set up"
    much = {"files": {"/proc/meminfo": MEMINFO}, "memory": 16 * 10**9}
    finding = look("swap", context_on("linux_cpu", much))
    assert told(finding)[:2] == ("warning", "5.1 GB are swapped out, of 16.0 GB of memory")
    assert (finding.numbers["swap_bytes"], finding.numbers["used_bytes"]) == (8_192_000_000, 5_120_000_000)
    german = {"outputs": {"sysctl -n vm.swapusage": "total = 9,00G  used = 8,50G  free = 0,50G"}}
    assert look("swap", context_on("m1_macos14", german)).numbers["used_bytes"] == int(8.5 * GIB)
    nothing = {"files": {"/proc/meminfo": "garbage"}}
    assert look("swap", context_on("linux_cpu", nothing)).severity == "skipped"


# --- wired-limit ---------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A copy of the embedded model, and a configuration that takes long completions of it."""
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path


def configured(folder: Path, generations: int, tokens: int = 200) -> str:
    """A configuration whose activations follow from its number of completions."""
    path = folder / f"large-{generations}.toml"
    path.write_text(
        f'model_name = "{folder}/model"\noutput_dir = "{folder}"\nbatch_size = 8\n'
        f"num_generations = {generations}\nmax_new_tokens = {tokens}\n"
    )
    return str(path)


def test_the_limit_is_raised_to_what_the_configuration_needs(large: Path) -> None:
    context, need = context_on("m3max_macos15"), 0
    for generations in range(64, 1640, 8):  # until it is between the default and the highest
        context = context_on("m3max_macos15", config_name=configured(large, generations))
        finding = look("wired-limit", context)
        need = finding.numbers["needed_bytes"]
        if need > 51539607552:
            break
    assert 51539607552 < need <= 52428 * MIB
    lines = (f"sudo sysctl iogpu.wired_limit_mb={min(52428, -(-need // GIB) * 1024)}",)
    assert told(finding) == (
        "warning",
        "the GPU may hold 51.5 GB of 68.7 GB (the default); this configuration needs about "
        f"{need / 1e9:.1f} GB",
        lines,
    )
    assert "restart" in finding.cure
    old = look(
        "wired-limit",
        context_on(
            "m3max_macos15", {"outputs": {"sw_vers -productVersion": "14.7"}}, config_name=context.config_name
        ),
    )
    assert old.severity == "warning"
    assert old.cure.startswith("update to macOS 15")
    assert not any("sysctl" in command for command in old.commands)


def test_no_limit_is_enough(large: Path) -> None:
    finding = look("wired-limit", context_on("m1_macos14", config_name=configured(large, 2048)))
    assert finding.severity == "warning"
    assert finding.cure.startswith("even raised to 12288 MB it is too little: use smaller settings")
    assert "batch_size = 1" in finding.commands
    assert not any("sysctl" in command for command in finding.commands)


def test_a_configuration_that_fits_needs_no_limit(large: Path) -> None:
    finding = look("wired-limit", context_on("m3max_macos15", config_name=configured(large, 2, 16)))
    assert finding.severity == "ok"
    assert finding.numbers["needed_bytes"] < 51539607552


def test_a_limit_that_starves_the_system() -> None:
    outputs = {"sysctl -n iogpu.wired_limit_mb": "15360"}
    finding = look("wired-limit", context_on("m1_macos14", {"outputs": outputs}))
    assert finding.severity == "warning"
    assert finding.seen.endswith("(iogpu.wired_limit_mb=15360), which leaves 1.1 GB for the system")
    assert finding.commands == (
        "sudo sysctl iogpu.wired_limit_mb=12288",
        "sudo sysctl iogpu.wired_limit_mb=0",
    )


def test_without_a_configuration_the_limit_is_told() -> None:
    assert told(look("wired-limit", context_on("m3max_macos26"))) == (
        "ok",
        "the GPU may hold 55.7 GB of 68.7 GB (the default)",
        (),
    )
    assert look("wired-limit", context_on("m1_macos14")).seen == (
        "the GPU may hold 11.5 GB of 17.2 GB (the default); raising it helps from macOS 15 on"
    )
    assert look("wired-limit", context_on("linux_cpu")).seen == "only Macs have this limit"
    unknown = {"probe": {"info": None}, "outputs": {"sysctl -n iogpu.wired_limit_mb": "x"}}
    assert look("wired-limit", context_on("m1_macos14", unknown)).severity == "skipped"


# --- models that fit -----------------------------------------------------------------------------


def fitting(name: str, changes: dict[str, object] | None = None) -> dict[str, str]:
    finding = look("models-that-fit", context_on(name, changes))
    return {row["model"]: row["fits"] for row in finding.numbers["models"]}


def test_what_fits_follows_the_machine() -> None:
    assert fitting("m1_macos14") == {
        "SmolLM2-135M": "all",
        "Qwen2.5-0.5B": "all",
        "nanochat-d20": "LoRA",
        "Qwen2.5-1.5B": "LoRA",
        "nanochat-d32": "LoRA",
        "Qwen2.5-3B": "sampling",
        "Qwen2.5-7B": "nothing",
    }
    assert set(fitting("linux_cuda").values()) == {"all", "LoRA"}
    assert fitting("linux_cpu")["Qwen2.5-7B"] == "nothing"
    seen = look("models-that-fit", context_on("m1_macos14")).seen.splitlines()
    assert seen[0] == (
        "11.5 GB available; 1 prompt of 256 tokens, 8 completions of 128, AdamW, bfloat16; in GB:"
    )
    assert len(seen) == 2 + len(MODELS)
