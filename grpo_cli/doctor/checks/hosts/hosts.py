"""Checks of the machines in a host file: each can be reached, and all have the same versions."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from grpo_cli.distributed.hosts import HERE
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.host_probe import HostProbe


def reached(context: Context) -> Iterator[Finding]:
    """Each host can be reached by ssh, has `grpo`, and has the addresses given in the file."""
    for ssh, probe in context.host_probes.items():
        if probe.trouble:
            trouble = probe.trouble
            yield error(f"{ssh}: {trouble.seen}", trouble.cure, *trouble.commands, host=ssh)
        else:
            yield examined(ssh, probe.facts)


def examined(ssh: str, facts: Mapping[str, Any]) -> Finding:
    """The finding for a host that answered."""
    numbers = {"host": ssh, **facts}
    if "mlx_error" in facts:
        return error(
            f"{ssh}: MLX cannot be imported there: {facts['mlx_error']}",
            "run the doctor on that machine",
            "grpo doctor",
            **numbers,
        )
    strange = [address for address, is_own in facts["addresses"].items() if not is_own]
    if strange:
        return error(
            f"{ssh}: {' and '.join(strange)} is not an address of that machine ({facts['host']})",
            "write its address on the cable or network to the others",
            "ifconfig" if facts["system"] == "Darwin" else "ip -brief address",
            **numbers,
        )
    return ok(f"{ssh}: {facts['host']}, {system_of(facts)}, MLX on {facts['device']}", **numbers)


def system_of(facts: Mapping[str, Any]) -> str:
    """A host's system in words: `macOS 26.2` or `Linux x86_64`."""
    return f"macOS {facts['macos']}" if facts["macos"] else f"{facts['system']} {facts['architecture']}"


def versions(context: Context) -> Iterator[Finding]:
    """All hosts have the same versions as the first."""
    heard = [probe for probe in context.host_probes.values() if probe.facts]
    if len(heard) < 2:
        reason = "one machine" if len(context.host_probes) == 1 else "too few answer"
        yield skipped(f"nothing to compare: {reason}")
        return
    first, *others = heard
    found = [finding for other in others for finding in compared(context, first, other)]
    yield from found
    if not found:
        told = ", ".join(f"{name} {version}" for name, version in first.facts["versions"].items())
        yield ok(f"the same on all {len(heard)}: {told}", versions=first.facts["versions"])


def compared(context: Context, first: HostProbe, other: HostProbe) -> Iterator[Finding]:
    """Findings for a host whose versions, device or Python differ from the first one's."""
    mine, its = first.facts["versions"], other.facts["versions"]
    names = [name for name in mine if its.get(name) != mine[name]]
    if names:
        told = "; ".join(f"{name} {mine[name]} and {its.get(name, 'none')}" for name in names)
        yield error(
            f"{first.ssh} and {other.ssh} differ: {told}",
            f"install on {other.ssh} what {first.ssh} has"
            + (", including grpo: the same checkout or wheel" if "grpo" in names else ""),
            *pins(context.python_there, other, {name: mine[name] for name in names}),
            hosts=[first.ssh, other.ssh],
            differ=names,
        )
    yield from differences_in_kind(first, other)


def pins(python: str, host: HostProbe, versions: Mapping[str, str]) -> list[str]:
    """The command that installs the given package versions on a host; `grpo` itself is left out."""
    on_mac = host.facts["system"] == "Darwin"
    wanted = {name: version for name, version in versions.items() if name != "grpo" and version[0].isdigit()}
    if "mlx" in wanted and not on_mac:  # its backend is a package of its own and must have the same version
        version = wanted.pop("mlx")
        wanted |= {"mlx[cpu]": version} if host.facts.get("device") == "cpu" else {}
    if not wanted:
        return []
    line = shlex.join([python, "-m", "pip", "install", *(f"{name}=={wanted[name]}" for name in wanted)])
    return [line if host.ssh == HERE else shlex.join(["ssh", host.ssh, line])]


def differences_in_kind(first: HostProbe, other: HostProbe) -> Iterator[Finding]:
    """A warning for hosts that differ in device or Python release: their results round differently."""
    pairs = [
        (f"MLX on {probe.facts.get('device')}", release(probe.facts["python"])) for probe in (first, other)
    ]
    told = [f"{mine} and {its}" for mine, its in zip(*pairs, strict=True) if mine != its]
    if told:
        yield warning(
            f"{first.ssh} and {other.ssh} differ: {'; '.join(told)}",
            "use machines of one kind if possible: others round differently, and all wait for the slowest",
            hosts=[first.ssh, other.ssh],
        )


def release(python: str) -> str:
    """`Python 3.12` of `3.12.3`."""
    return "Python " + ".".join(python.split(".")[:2])
