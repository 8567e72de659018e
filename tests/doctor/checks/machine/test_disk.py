"""Disks: folders that really refuse, are large, or hold what a killed process left."""

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.checks.machine import disk
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.doctor.read.stale_files import measured
from grpo_cli.engine.train import train
from tests.support.machines import context_on, look, looks, told

TINY = Path(__file__).parents[4] / "grpo_cli/models/tiny"
NUMBERS = 2 * 316 * 128 + 4 * 12 * 128**2  # of the embedded model's weights
GB = 10**9


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a hub cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def at(check: str, folder: Path, free: int = 400 * GB, **settings: Any) -> Any:
    """The check's finding for a configuration of the embedded model."""
    lines = {"model_name": "tiny", "output_dir": str(folder), "dataset": "arithmetic", **settings}
    path = folder.parent / "some.toml"
    path.write_text("".join(f"{key} = {value!r}\n".replace("True", "true") for key, value in lines.items()))
    return look(check, context_on("linux_cpu", {"free": free}, config_name=str(path)))


def test_a_healthy_machine_gets_no_warning() -> None:
    found = looks("disk", Context())
    assert {name: finding.severity for name, finding in found.items() if name != "disk-space"} == {
        "output-folder": "ok",
        "hub-cache": "ok",
        "leftovers": "ok",
    }
    assert os.listdir() == []  # noqa: PTH208


# --- disk-space ----------------------------------------------------------------------------------


def test_free_space_without_a_configuration() -> None:
    assert told(look("disk-space", context_on("linux_cpu"))) == ("ok", "400.0 GB free for outputs", ())
    finding = look("disk-space", context_on("linux_cpu", {"free": 4 * GB}))
    assert (finding.severity, finding.seen) == ("warning", "4.0 GB free for outputs")
    assert look("disk-space", context_on("linux_cpu", {"free": None})).severity == "skipped"


def test_a_checkpoint_is_reckoned_from_the_model(tmp_path: Path) -> None:
    """Float32 weights and AdamW's two averages: 12 bytes a number, and the small files."""
    finding = at("disk-space", tmp_path / "outputs", save_steps=10)
    assert finding.numbers["checkpoint_bytes"] == 12 * NUMBERS + disk.SMALL_FILES
    assert finding.numbers["checkpoints"] == 6  # 3 kept, the best, one that is written, and final
    with_reference = at("disk-space", tmp_path / "outputs", save_steps=10, kl_coeff=0.1)
    assert with_reference.numbers["checkpoint_bytes"] == 12 * NUMBERS + disk.SMALL_FILES
    adapters = at("disk-space", tmp_path / "outputs", save_steps=0, lora_rank=4)
    assert adapters.numbers["checkpoint_bytes"] - disk.SMALL_FILES < 12 * NUMBERS / 4
    assert adapters.numbers["checkpoints"] == 1


@pytest.mark.parametrize(
    ("max_steps", "save_steps", "keep", "count"),
    [(40, 100, 3, 1), (99, 100, 3, 1), (100, 100, 3, 2), (40, 10, 3, 5), (50, 10, 3, 6), (60, 10, 3, 6),
     (1000, 10, 1, 4), (0, 100, 3, 6), (40, 0, 3, 1)],
)  # fmt: skip
def test_no_checkpoint_is_reckoned_that_is_never_written(
    tmp_path: Path, max_steps: int, save_steps: int, keep: int, count: int
) -> None:
    """A numbered one after every `save_steps`, and final; 3 more than are kept at the most."""
    settings = {"max_steps": max_steps, "save_steps": save_steps, "keep_checkpoints": keep}
    assert at("disk-space", tmp_path / "outputs", **settings).numbers["checkpoints"] == count


def test_a_checkpoint_takes_what_was_reckoned(tmp_path: Path) -> None:
    """Against a real one."""
    from tests.support.small_runs import small

    train(small(tmp_path, run_name="real", max_steps=1))
    final = tmp_path / "outputs/real/final"
    folder = final if final.is_dir() else next(tmp_path.rglob("final"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    reckoned = at("disk-space", tmp_path / "outputs").numbers["checkpoint_bytes"]
    assert reckoned - disk.SMALL_FILES < size < reckoned


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    one = 12 * NUMBERS + disk.SMALL_FILES
    few = at("disk-space", tmp_path / "outputs", free=5 * one, save_steps=10)
    assert (few.severity, few.commands[0]) == ("warning", "keep_checkpoints = 2")
    two = at("disk-space", tmp_path / "outputs", free=2 * one, save_steps=10)
    assert (two.severity, two.commands[0]) == ("warning", "save_steps = 0")
    none = at("disk-space", tmp_path / "outputs", free=one - 1, save_steps=10)
    assert none.severity == "error"
    assert none.cure == "free some space or write elsewhere: not even one checkpoint fits"
    assert at("disk-space", tmp_path / "outputs", free=6 * one, save_steps=10).severity == "ok"


# --- output-folder -------------------------------------------------------------------------------


def real(folder: Path) -> Any:
    """The finding for an output folder on this machine."""
    path = Path("some.toml")
    path.write_text(f"output_dir = {str(folder)!r}\nmodel_name = 'tiny'\ndataset = 'arithmetic'\n")
    return look("output-folder", Context(config_name="some.toml"))


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    finding = real(tmp_path / "new/outputs")
    assert told(finding) == ("ok", f"{tmp_path}/new/outputs can be written", ())
    assert sorted(os.listdir(tmp_path)) == ["some.toml"]  # noqa: PTH208


def test_a_file_has_the_folder_s_name(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    finding = real(tmp_path / "taken/outputs")
    assert finding.severity == "error"
    assert finding.seen == (
        f"Failed to save checkpoint: {tmp_path}/taken is not a folder: {tmp_path}/taken/outputs"
    )
    (tmp_path / "dangling").symlink_to("nowhere")
    assert real(tmp_path / "dangling").severity == "error"


def test_a_folder_that_refuses(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refused = Path("/sys") if os.geteuid() == 0 else folder  # root may write into any folder of a disk
    if not refused.is_dir() or not Machine().refusal(refused):
        pytest.skip("no folder here refuses a file")
    finding = real(refused)
    assert finding.severity == "error"
    assert finding.seen.startswith("Failed to save checkpoint: ")
    assert finding.numbers["reason"] in (
        "Permission denied",
        "Read-only file system",
        "Operation not permitted",
    )
    assert finding.commands[0] == f"mkdir -p {refused} && chmod u+rwx {refused}"


# --- hub-cache -----------------------------------------------------------------------------------


def test_the_cache_is_measured_without_following_links(tmp_path: Path) -> None:
    blobs = tmp_path / "huggingface/hub/models--a--b/blobs"
    blobs.mkdir(parents=True)
    (blobs / "x").write_bytes(bytes(300))
    snapshot = blobs.parent / "snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blobs / "x")
    (snapshot / "loop").symlink_to(blobs.parent)
    assert measured(tmp_path / "huggingface") == (300, True)
    assert look("hub-cache", Context()).numbers["bytes"] == 300


def test_a_large_cache(tmp_path: Path) -> None:
    hub = tmp_path / "huggingface/hub"
    hub.mkdir(parents=True)
    with (hub / "large").open("wb") as file:
        file.truncate(60 * GB)  # a file with a hole: it takes no room
    environment = {"HF_HOME": str(tmp_path / "huggingface")}
    roomy = look("hub-cache", context_on("linux_cpu", {"free": 10 * GB, "environment": environment}))
    assert told(roomy) == ("ok", f"{hub}: 60.0 GB, 10.0 GB free on its disk", ())
    full = look("hub-cache", context_on("linux_cpu", {"free": 10 * GB - 1, "environment": environment}))
    assert told(full) == (
        "warning",
        f"{hub}: 60.0 GB, 10.0 GB free on its disk",
        ("hf cache ls", "hf cache rm REPOSITORY", "export HF_HOME=/OTHER/DISK/huggingface"),
    )


def test_a_cache_on_a_full_disk(tmp_path: Path) -> None:
    changes = {"free": 2 * GB, "environment": {"HF_HOME": str(tmp_path / "none")}}
    finding = look("hub-cache", context_on("linux_cpu", changes))
    assert (finding.severity, finding.seen) == (
        "warning",
        f"{tmp_path}/none/hub: 0.0 GB, 2.0 GB free on its disk",
    )


# --- leftovers -----------------------------------------------------------------------------------


def abandoned(folder: Path, hours: float = 2) -> Path:
    """A folder as a killed process leaves it."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(1_000_000))
    long_ago = time.time() - hours * 3600
    for path in (folder / "model.safetensors", folder):
        os.utime(path, (long_ago, long_ago))
    return folder


def test_what_killed_processes_left_is_named_with_the_lines_that_delete_it() -> None:
    abandoned(Path("outputs/run/.checkpoint-40.grpo-tmp"))
    abandoned(Path("models/.nanochat-d32-mlx.grpo-tmp-a1b2c3d4"))
    abandoned(Path(".mine.grpo-tmp-zzz"))
    finding = look("leftovers", Context())
    assert told(finding) == (
        "warning",
        "3 left by processes that were killed, 3.0 MB",
        (
            "rm -r outputs/run/.checkpoint-40.grpo-tmp",
            "rm -r models/.nanochat-d32-mlx.grpo-tmp-a1b2c3d4",
            "rm -r .mine.grpo-tmp-zzz",
        ),
    )
    for command in finding.commands:
        shutil.rmtree(command.removeprefix("rm -r "))
    assert told(look("leftovers", Context())) == ("ok", "none", ())


def test_what_is_new_or_in_use_is_left_alone() -> None:
    abandoned(Path("outputs/run/.checkpoint-40.grpo-tmp"), hours=0.5)
    working = abandoned(Path("outputs/other/.checkpoint-8.grpo-tmp"))
    converting = abandoned(Path("models/.x.grpo-tmp-abc"))
    lock = (working.parent / "run.lock").open("w")
    handle = os.open(converting, os.O_RDONLY)
    for file in (lock, handle):
        fcntl.flock(file, fcntl.LOCK_EX)
    finding = look("leftovers", Context())
    assert told(finding) == ("ok", "3 of a process that is running or ended less than an hour ago", ())
    lock.close()
    os.close(handle)
    assert look("leftovers", Context()).commands == (
        "rm -r outputs/other/.checkpoint-8.grpo-tmp",
        "rm -r models/.x.grpo-tmp-abc",
    )


def test_the_only_copy_is_never_deleted() -> None:
    """A process that was killed between two renames."""
    abandoned(Path("outputs/run/.final.grpo-old"))
    abandoned(Path("models/.mine.grpo-tmp-abc-old"))
    abandoned(Path("models/.other.grpo-tmp-abc-old"))
    Path("models/other").mkdir()
    assert look("leftovers", Context()).commands == (
        "mv outputs/run/.final.grpo-old outputs/run/final",
        "mv models/.mine.grpo-tmp-abc-old models/mine",
        "rm -r models/.other.grpo-tmp-abc-old",
    )


def test_what_a_resumed_run_set_aside_is_no_rubbish() -> None:
    for name in ("checkpoint-20.aside", "final.aside", "final.aside-2"):
        abandoned(Path("outputs/run") / name)
    Path("outputs/run/training_log.jsonl.aside").write_text("x")
    abandoned(Path("outputs/run/mine.aside"))  # somebody else's
    finding = look("leftovers", Context())
    assert told(finding) == (
        "ok",
        "4 set aside by a resumed run, 3.0 MB: yours to keep or delete",
        (),
    )
    assert finding.numbers["aside"][0]["path"] == "outputs/run/checkpoint-20.aside"


def test_names_are_quoted_and_links_not_followed(tmp_path: Path) -> None:
    abandoned(Path("outputs/my run; ls/.checkpoint-1.grpo-tmp"))
    (tmp_path / "elsewhere").mkdir()
    abandoned(tmp_path / "elsewhere/.x.grpo-tmp")
    Path("outputs/link").symlink_to(tmp_path / "elsewhere")
    assert look("leftovers", Context()).commands == ("rm -r 'outputs/my run; ls/.checkpoint-1.grpo-tmp'",)
