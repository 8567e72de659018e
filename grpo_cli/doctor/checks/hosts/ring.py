"""The check of the ring: started on the hosts as a run starts it, and measured.

`mlx.launch` exits with 0 even on failure, so only rank 0's output (distributed/ring_test.py) counts.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo_cli.distributed.hosts import HostFile
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, gigabytes, ok, skipped, warning
from grpo_cli.doctor.read.json_lines import json_object
from grpo_cli.doctor.read.machine import Attempt

RING_SECONDS = 180  # a minute to start, one to connect, one to measure
TEST = "grpo_cli.distributed.ring_test"
# Less means a wireless network or a bad cable: 1 Gb/s Ethernet reaches 0.1. Latency hardly matters, since
# training sums large arrays, a few dozen times per step.
LEAST_GB_S = 0.05
SHOWN = 3  # lines of error output
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
FLOAT32 = 4


def ring(context: Context) -> Iterator[Finding]:
    """The hosts connect in a ring; its latency and bandwidth."""
    file = context.host_file
    assert file is not None
    silent = [probe.ssh for probe in context.host_probes.values() if not probe.facts]
    if len(file.hosts) == 1:
        yield skipped("one rank is not a ring")
    elif silent:
        yield skipped(f"no answer from {', '.join(silent)}")
    else:
        yield homeless(file) or tried(context, file)


def homeless(file: HostFile) -> Finding | None:
    """The error for hosts without an address, which a ring needs; None if all have one."""
    names = [host.ssh for host in file.hosts if not host.ips]
    if not names:
        return None
    return error(
        f"the file has no `ips` for {', '.join(names)}",
        "write each host's address on the network or cable to the next: `mlx.distributed_config` finds them",
        f"mlx.distributed_config --hosts {','.join(file.machines)} --over ethernet --output-hostfile NEW",
    )


def tried(context: Context, file: HostFile) -> Finding:
    """The finding of the ring test, which this starts on all hosts."""
    launch = launcher(context)
    if launch is None:
        return error("`mlx.launch` is neither next to this Python nor on the PATH", "reinstall MLX's package")
    attempt = context.machine.attempt(*started(launch, context, file), seconds=RING_SECONDS)
    lines = [found for line in attempt.output.splitlines() if (found := json_object(line))]
    found = next((line["ring"] for line in lines if isinstance(line.get("ring"), dict)), None)
    if found is None:
        return not_closed(context, attempt, [line for line in lines if "failed" in line])
    return measured(context, found)


def launcher(context: Context) -> str | None:
    """Path of `mlx.launch`: next to the running Python, or on the PATH; None if neither."""
    beside = str(Path(context.machine.executable).parent / "mlx.launch")
    return context.machine.which(beside) or context.machine.which("mlx.launch")


def started(launch: str, context: Context, file: HostFile) -> list[str]:
    """The command that starts the test on every host."""
    options = ["--hostfile", str(file.path), "--backend", "ring"]
    port = ["--starting-port", str(context.starting_port)]
    return [launch, *options, *port, "--", context.python_there, "-P", "-m", TEST]


def not_closed(context: Context, attempt: Attempt, told: list[dict[str, Any]]) -> Finding:
    """The error for ranks that do not connect, with their last output."""
    by_rank = sorted(told, key=lambda line: int(line.get("rank", 0)))
    words = [f"rank {line.get('rank')}: {line['failed']}" for line in by_rank][:SHOWN]
    words = words or last_lines(attempt.complaint) or last_lines(attempt.output)
    if attempt.code is None:
        words = [f"not finished after {RING_SECONDS} s", *words]
    assert context.host_file is not None
    first = context.starting_port
    last = first + sum(len(host.ips) for host in context.host_file.hosts) - 1
    return error(
        f"the ranks do not connect: {'; '.join(words) or 'they print nothing'}",
        "check that the addresses in the file are those of the cable or network between the hosts, that each "
        f"host reaches the next one's address, and that no firewall blocks the ports {first} to {last} and "
        "those 1000 above; if another run uses them, choose others",
        shlex.join(["grpo", "doctor", "--hosts", str(context.hosts), "--starting-port", "42323"]),
        said=words,
    )


def last_lines(text: str) -> list[str]:
    """The last lines of output, without colours and without the launcher's notes on ranks that it ended."""
    lines = [COLOURS.sub("", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and "[WARN] Node with rank" not in line][-SHOWN:]


def measured(context: Context, found: dict[str, Any]) -> Finding:
    """The finding for the ring's measured latency and bandwidth."""
    numbers, speed, latency = dict(found), found["moved_gb_s"], found["latency_ms"]
    seen = (
        f"{found['size']} ranks: {latency:.2g} ms for a sum of one number, {found['seconds']:.2g} s for "
        f"one of {gigabytes(found['bytes'])}; each moves {speed:.2g} GB/s"
    )
    size = gradient_bytes(context)
    if size:
        numbers |= {"gradient_bytes": size, "step_seconds": size / found["bytes"] * found["seconds"]}
        seen += (
            f"; the gradients of this configuration ({gigabytes(size)}) take about "
            f"{numbers['step_seconds']:.2g} s a step"
        )
    assert context.host_file is not None
    if speed >= LEAST_GB_S or len(context.host_file.machines) == 1:
        return ok(seen, **numbers)
    return warning(
        seen,
        "connect the hosts by cable (Thunderbolt, or Ethernet of 1 Gb/s and more), write the addresses of "
        "that connection into the file, and let nothing else use it during the run",
        **numbers,
    )


def gradient_bytes(context: Context) -> int | None:
    """Bytes of gradients that the ranks sum per step of the configuration; None if unknown."""
    from grpo_cli.doctor.read.config_memory import trained_numbers

    if context.config is None or context.configured_model is None:
        return None
    on_cpu = context.on_cpu
    numbers = trained_numbers(context.config, context.configured_model, on_cpu)
    return FLOAT32 * numbers if numbers else None
