"""The ring: recorded words of the launcher, and a real ring of two ranks on this machine."""

import json
import shutil
import socket
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from grpo_cli.distributed.ring_test import share_moved
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.read.machine import Machine
from tests.support.doctor_findings import look as find
from tests.support.doctor_findings import tiny_copy
from tests.support.machines import look, told
from tests.support.recorded_hosts import HOSTS, LINUX, alike, context
from tests.support.waiting import HANG, wait_until


def test_a_slow_ring(tmp_path: Path) -> None:
    slow = alike(LINUX, seconds=3.2, moved_gb_s=0.021)
    finding = look("ring", context(tmp_path, slow))
    assert finding.severity == "warning"
    assert finding.seen.endswith("3.2 s for one of 67 MB; each moves 0.021 GB/s")
    same_machine = [{"ssh": "one", "ips": ["10.0.0.1"]}] * 2
    assert look("ring", context(tmp_path, slow, same_machine)).severity == "ok"


def test_what_a_configuration_s_gradients_take(tmp_path: Path) -> None:
    model = tiny_copy(tmp_path / "model")
    config = tmp_path / "my.toml"
    config.write_text(f'model_name = "{model}"\ndataset = "arithmetic"\n')
    finding = look("ring", context(tmp_path, alike(LINUX), config_name=str(config)))
    arrays = mx.load(str(model / "model.safetensors"))
    size = 4 * sum(array.size for array in arrays.values())
    assert finding.numbers["gradient_bytes"] == size
    assert finding.numbers["step_seconds"] == pytest.approx(size / 2**26 * 0.5)
    assert f"; the gradients of this configuration ({size / 1e6:.0f} MB) take about " in finding.seen


def test_ranks_that_do_not_come_together(tmp_path: Path) -> None:
    output = (
        '{"failed": "Rank 0 (10.0.0.1:33323) cannot be reached: it does not answer", "rank": 1}\r\n'
        '{"failed": "Rank 1 (10.0.0.2:33324) cannot be reached: No route to host", "rank": 0}\r\n'
    )
    finding = look("ring", context(tmp_path, alike(LINUX) | {"mlx.launch": [0, output, ""]}))
    assert finding.seen == (
        "the ranks do not connect: rank 0: Rank 1 (10.0.0.2:33324) cannot be reached: No route to "
        "host; rank 1: Rank 0 (10.0.0.1:33323) cannot be reached: it does not answer"
    )
    assert "the ports 32323 to 32324 and those 1000 above" in finding.cure
    assert finding.commands == (f"grpo doctor --hosts {tmp_path}/hosts.json --starting-port 42323",)


def test_a_launcher_that_only_complains(tmp_path: Path) -> None:
    complaint = (
        "Traceback\nImportError: libmlx.so\n\033[33m[WARN] Node with rank 1 exited with code 1 \033[0m\n"
    )
    finding = look("ring", context(tmp_path, alike(LINUX) | {"mlx.launch": [0, "", complaint]}))
    assert finding.seen == "the ranks do not connect: Traceback; ImportError: libmlx.so"


def test_a_ring_that_hangs(tmp_path: Path) -> None:
    finding = look("ring", context(tmp_path, alike(LINUX) | {"mlx.launch": [None, "", ""]}))
    assert finding.seen == "the ranks do not connect: not finished after 180 s"


def test_a_ring_is_not_tried_where_it_cannot_be(tmp_path: Path) -> None:
    assert told(look("ring", context(tmp_path, alike(LINUX), HOSTS[:1]))) == (
        "skipped",
        "one rank is not a ring",
        (),
    )
    silent = alike(LINUX) | {" two sh -c": [None]}
    assert told(look("ring", context(tmp_path, silent))) == ("skipped", "no answer from two", ())
    homeless = [HOSTS[0], {"ssh": "two"}]
    assert look("ring", context(tmp_path, alike(LINUX), homeless)).seen == "the file has no `ips` for two"
    nowhere = context(tmp_path, alike(LINUX))
    nowhere.machine.record["programs"] = {}
    assert look("ring", nowhere).seen == "`mlx.launch` is neither next to this Python nor on the PATH"


def test_a_command_that_hangs_ends_with_all_that_it_started() -> None:
    started = time.monotonic()
    attempt = Machine().attempt("sh", "-c", "sleep 3600 & echo $!; sleep 3600", seconds=1.0)
    assert time.monotonic() - started < HANG
    assert attempt.code is None
    left = Path(f"/proc/{attempt.output.strip()}/stat")
    wait_until(lambda: not left.exists() or left.read_text().split()[2] == "Z", "the end of its child")


def test_a_command_s_end_and_words_and_its_open_stdin() -> None:
    attempt = Machine().attempt("sh", "-c", "echo out; echo err >&2; exit 3", seconds=HANG)
    assert (attempt.code, attempt.output, attempt.complaint) == (3, "out\n", "err\n")
    assert Machine().attempt("cat", seconds=0.5).code is None  # a closed stdin would end it
    assert Machine().attempt("no-such-program-of-ours", seconds=1).code == 127


def free_port() -> int:
    """A port from which on a few, and those 1000 above, are free now."""
    for start in range(21000, 30000, 2011):
        try:
            for port in (start, start + 1, start + 1000, start + 1001):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    pytest.skip("no free ports")


LAUNCHER = shutil.which(str(Path(sys.executable).parent / "mlx.launch")) or shutil.which("mlx.launch")


@pytest.mark.skipif(LAUNCHER is None, reason="mlx.launch is missing")
def test_a_real_ring_of_two_ranks_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    reach, ring = find(Context(hosts=path, starting_port=free_port()), "hosts", "ring")
    assert (reach.severity, reach.numbers["addresses"]) == ("ok", {"127.0.0.1": True})
    assert (ring.severity, ring.seen[:9]) == ("ok", "2 ranks: ")
    numbers = ring.numbers
    assert numbers["moved_gb_s"] == pytest.approx(numbers["bytes"] / numbers["seconds"] / 1e9)
    assert numbers["latency_ms"] > 0


@pytest.mark.skipif(LAUNCHER is None, reason="mlx.launch is missing")
def test_a_real_ring_whose_port_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1000))
        other.listen()
        (ring,) = find(Context(hosts=path, starting_port=port), "ring")
    assert ring.severity == "error"
    assert f"rank 0: Port {port + 1000} of 127.0.0.1 is in use" in ring.seen


@pytest.mark.parametrize(("size", "share"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_what_each_rank_moves_of_an_array(size: int, share: float) -> None:
    assert share_moved(size) == share
