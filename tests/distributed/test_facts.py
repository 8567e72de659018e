"""Facts that a machine reports of itself: on this one, as another one would be asked."""

import json
import platform
import subprocess
import sys
from importlib import metadata

from grpo_cli.distributed import facts


def test_this_machine_s_facts_are_one_line_of_json() -> None:
    command = [sys.executable, "-P", "-m", "grpo_cli.distributed.facts", "127.0.0.1", "192.0.2.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    told = json.loads(line)["facts"]
    assert told["addresses"] == {"127.0.0.1": True, "192.0.2.1": False}
    assert told["versions"]["mlx"] == metadata.version("mlx")
    assert told["versions"]["mlx-lm"] == metadata.version("mlx-lm")
    assert (told["host"], told["python"]) == (platform.node(), platform.python_version())
    assert "ring" in told["backends"]
    assert told["device"] in ("cpu", "metal", "cuda")


def test_sources_have_a_checksum_that_a_change_changes(tmp_path, monkeypatch) -> None:
    (tmp_path / "distributed").mkdir()
    monkeypatch.setattr(facts, "__file__", str(tmp_path / "distributed/facts.py"))
    (tmp_path / "a.py").write_text("x = 1\n")
    first = facts.own_version()
    assert facts.own_version() == first
    (tmp_path / "a.py").write_text("x = 2\n")
    assert facts.own_version() != first


def test_rdma_devices_are_read_from_what_macos_prints(monkeypatch) -> None:
    table = (
        "    device          \t   node GUID\n    ------          \t----------------\n"
        "    rdma_en2        \ta1b2c3d4e5f60718\n    rdma_en3        \ta1b2c3d4e5f60719\n"
    )
    done = subprocess.CompletedProcess(["ibv_devices"], 0, table, "")
    monkeypatch.setattr(facts.subprocess, "run", lambda *_, **__: done)
    assert facts.rdma_devices() == ["rdma_en2", "rdma_en3"]


def test_a_package_that_is_not_there_is_said() -> None:
    assert facts.version("no-such-package") == "not installed"
