"""Cures of a machine, applied to recorded ones: what they install, export and set."""

import shlex
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.models.find import TINY
from tests.support.doctor_cures import Cure, Look, cases_of, run_shell, toml
from tests.support.doctor_findings import look
from tests.support.enacted import TwoDisks, enacted
from tests.support.machines import RecordedMachine, context_on

GB = 10**9
BROKEN = {"product_right": None, "device": None, "nanochat": None}
SLOW = {"gflops": 5.1, "blas": {"name": "mlx", "threads": None, "note": "slow"}}


def at(check: str, name: str, changes: Mapping[str, Any], **named: Any) -> list[Finding]:
    return look(context_on(name, changes, **named), check)


def by_commands(check: str, name: str, changes: Mapping[str, Any], **named: Any) -> Generator[Look, Finding]:
    """A trouble of a recorded machine whose cure are the commands that the doctor prints."""
    finding = yield lambda: at(check, name, changes, **named)
    assert finding.commands
    yield lambda: look(enacted(finding, name, changes, **named), check)


def failing(stage: str, error: str, **more: Any) -> dict[str, Any]:
    return {"probe": {**BROKEN, "failed": stage, "error": error}, **more}


# --- what is installed --------------------------------------------------------------------------------


def mlx_lm_is_missing() -> Cure:
    yield from by_commands("mlx-lm", "linux_cpu", {"versions": {"mlx-lm": None}})


def mlx_is_old() -> Cure:
    yield from by_commands("mlx", "linux_cpu", {"versions": {"mlx": "0.20.0"}})


def packages_are_old_or_missing() -> Cure:
    yield from by_commands("packages", "linux_cpu", {"versions": {"tiktoken": None, "transformers": "4.0"}})


def two_backends_at_once() -> Cure:
    yield from by_commands("two-backends", "two_backends", {})


def no_backend() -> Cure:
    yield from by_commands("two-backends", "linux_cpu", {"versions": {"mlx-cpu": None}})


def nanochat_fails() -> Cure:
    changes = failing("import mlx_lm", "ImportError: transformers")
    yield from by_commands("nanochat-import", "linux_cpu", changes)


def device_that_is_not_there() -> Cure:
    changes = failing("device", "ConfigError: Device not available: GRPO_DEVICE=cuda")
    changes["environment"] = {"GRPO_DEVICE": "cuda"}
    finding = yield lambda: at("mlx-backend", "linux_cpu", changes)
    after = enacted(finding, "linux_cpu", changes)
    assert "GRPO_DEVICE" not in after.machine.environment
    works = {"environment": dict(after.machine.environment) | {"GRPO_DEVICE": None}}
    yield lambda: at("mlx-backend", "linux_cpu", works)


def cuda_without_a_driver() -> Cure:
    yield from by_commands("mlx-backend", "cuda_without_driver", {})


def killed_by_a_signal() -> Cure:
    yield from by_commands("mlx-backend", "linux_cpu", failing("product", "killed by signal 4 (SIGILL)"))


def library_that_is_missing() -> Cure:
    yield from by_commands("mlx-backend", "linux_cpu", failing("import mlx", "ImportError: libmlx.so"))


def product_that_is_wrong() -> Cure:
    yield from by_commands("mlx-backend", "linux_cpu", {"probe": {"product_right": False}})


def card_that_is_not_used() -> Cure:
    driver = RecordedMachine("linux_cuda").text("/proc/driver/nvidia/version")
    yield from by_commands("mlx-backend", "linux_cpu", {"files": {"/proc/driver/nvidia/version": driver}})


def metal_that_is_not_used() -> Cure:
    yield from by_commands("mlx-backend", "m3max_macos15", {"probe": {"device": "cpu"}})


def kernels_cannot_be_kept() -> Cure:
    Path("full").write_text("")
    home = {"HOME": str(Path.cwd()), "TMPDIR": str(Path("full").absolute())}

    class Real(RecordedMachine):
        def refusal(self, folder: Path) -> str:
            return "" if folder.is_dir() else "Not a directory"

    def context(environment: Mapping[str, str]) -> Context:
        return Context(machine=Real("linux_cuda", environment=environment))

    finding = yield lambda: look(context(home), "compiler")
    (line,) = finding.commands
    left = run_shell(line, **home)
    yield lambda: look(context(left), "compiler")


def slow_product() -> Cure:
    changes = {"probe": SLOW, "versions": {"scipy-openblas32": None}}
    yield from by_commands("matrix-product", "linux_cpu", changes)


def slow_product_by_a_variable() -> Cure:
    changes = {"probe": SLOW, "environment": {"GRPO_FAST_BLAS": "0"}}
    finding = yield lambda: at("matrix-product", "linux_cpu", changes)
    assert "GRPO_FAST_BLAS" not in enacted(finding, "linux_cpu", changes).machine.environment
    yield lambda: at("matrix-product", "linux_cpu", {})


# --- disks --------------------------------------------------------------------------------------------


def written(**settings: Any) -> str:
    lines = {"model_name": "tiny", "dataset": "arithmetic", "save_steps": 10, **settings}
    Path("some.toml").write_text("".join(f"{key} = {value!r}\n" for key, value in lines.items()))
    return "some.toml"


def on_two_disks(check: str, free: float, environment: Mapping[str, str] | None = None, **named: Any) -> Any:
    changes = {"free": int(free), "environment": dict(environment or {})}
    return look(Context(machine=TwoDisks("linux_cpu", **changes), **named), check)


def elsewhere(finding: Finding) -> str:
    """The finding's folder on another disk, with that disk's name in place of the printed one."""
    return str(toml(finding)["output_dir"]).replace("/OTHER/DISK", "other")


def no_room_for_one_checkpoint() -> Cure:
    finding = yield lambda: on_two_disks("disk-space", 1e6, config_name=written())
    yield lambda: on_two_disks("disk-space", 1e6, config_name=written(output_dir=elsewhere(finding)))


def no_room_for_all_checkpoints() -> Cure:
    one = at("disk-space", "linux_cpu", {}, config_name=written())[0].numbers["checkpoint_bytes"]
    finding = yield lambda: on_two_disks("disk-space", 5 * one, config_name=written())
    keep = toml(finding)["keep_checkpoints"]
    yield lambda: on_two_disks("disk-space", 5 * one, config_name=written(keep_checkpoints=keep))


def little_room() -> Cure:
    finding = yield lambda: on_two_disks("disk-space", 4 * GB)
    yield lambda: on_two_disks("disk-space", 4 * GB, config_name=written(output_dir=elsewhere(finding)))


def output_folder_that_cannot_be() -> Cure:
    Path("taken").write_text("")
    finding = yield lambda: look(Context(config_name=written(output_dir="taken/outputs")), "output-folder")
    yield lambda: look(Context(config_name=written(output_dir=elsewhere(finding))), "output-folder")


def little_room_for_downloads() -> Cure:
    home = {"HF_HOME": "full/huggingface"}
    finding = yield lambda: on_two_disks("hub-cache", 9 * GB, home)
    line = finding.commands[-1].replace("/OTHER/DISK", str(Path("other").absolute()))
    left = run_shell(line, **home)
    yield lambda: on_two_disks("hub-cache", 9 * GB, left)


def files_of_killed_processes() -> Cure:
    for name in ("outputs/run/.checkpoint-40.grpo-tmp", "outputs/run/.final.grpo-old", ".my own.grpo-tmp-z"):
        Path(name).mkdir(parents=True)
        shutil.os.utime(name, (time.time() - 7200,) * 2)
    finding = yield lambda: look(Context(), "leftovers")
    for line in finding.commands:
        run_shell(line)
    assert Path("outputs/run/final").is_dir()  # the only copy has its name again
    assert sorted(path.name for path in Path("outputs/run").iterdir()) == ["final"]


# --- the hub ------------------------------------------------------------------------------------------

NEEDS = {"model_name": "Qwen/Qwen2.5-0.5B-Instruct", "dataset": "openai/gsm8k"}


def home(**variables: str) -> dict[str, Any]:
    return {"HF_HOME": str(Path("hf").absolute()), **variables}


def downloads_are_forbidden() -> Cure:
    changes = {"environment": home(HF_HUB_OFFLINE="1")}
    yield from by_commands("hub", "linux_cpu", changes, config_name=written(**NEEDS))


def hub_that_does_not_answer() -> Cure:
    changes: dict[str, Any] = {"reach": "No route to host", "environment": home()}
    finding = yield lambda: at("hub", "linux_cpu", changes, config_name=written(**NEEDS))
    folders = {}
    for line in finding.commands:  # on a machine that has a network, and then copied
        words = shlex.split(line)
        kind = "datasets" if words[3:] == ["--repo-type", "dataset"] else "models"
        folder = Path(f"hf/hub/{kind}--{words[2].replace('/', '--')}")
        (folder / "snapshots/1").mkdir(parents=True)
        (folder / "snapshots/1/config.json").write_text("{}")
        folders[str(folder.absolute())] = ["snapshots"]
    yield lambda: at("hub", "linux_cpu", {**changes, "folders": folders}, config_name="some.toml")


def token_with_quotation_marks() -> Cure:
    changes = {"environment": home(HF_TOKEN="'hf_abcdefghij'")}
    finding = yield lambda: at("hub-token", "linux_cpu", changes)
    assert finding.commands[1:] == ("hf auth login",)  # asks for the token, and writes it
    left = run_shell(finding.commands[0], **changes["environment"])
    stored = {left["HF_HOME"] + "/token": "hf_abcdefghij\n"}
    yield lambda: look(Context(machine=Exactly("linux_cpu", left, stored)), "hub-token")


class Exactly(RecordedMachine):
    """A recorded machine with no other environment and files."""

    def __init__(self, name: str, environment: dict[str, str], files: dict[str, str]) -> None:
        super().__init__(name)
        self.record |= {"environment": environment, "files": files}


# --- memory -------------------------------------------------------------------------------------------


def large(generations: int) -> str:
    if not Path("model").exists():
        shutil.copytree(TINY, "model")
    return written(model_name="model", batch_size=8, num_generations=generations, max_new_tokens=200)


def limit_that_is_too_low() -> Cure:
    for generations in range(64, 1640, 8):  # until it is between the default and the highest
        name = large(generations)
        (finding,) = at("wired-limit", "m3max_macos15", {}, config_name=name)
        if finding.is_problem:
            break
    yield from by_commands("wired-limit", "m3max_macos15", {}, config_name=name)


def limit_that_starves_the_system() -> Cure:
    changes = {"outputs": {"sysctl -n iogpu.wired_limit_mb": "15360"}}
    yield from by_commands("wired-limit", "m1_macos14", changes)


def configuration_that_no_limit_fits() -> Cure:
    finding = yield lambda: at("wired-limit", "m1_macos14", {}, config_name=large(2048))
    smaller = {"model_name": "model", "max_new_tokens": 200, "num_generations": 2048, **toml(finding)}
    yield lambda: at("wired-limit", "m1_macos14", {}, config_name=written(**smaller))


test_a_cure_cures = cases_of(globals())
