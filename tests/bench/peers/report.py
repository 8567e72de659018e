"""The peers' results beside each other: numbers for JSON, and a table."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One peer's rounds: medians over all steps but each round's first, the highest peak, the last learning.

    `learnt`: the mean reward of the last third of the steps is above that of the first third by more than two
    standard errors of the difference.
    """
    last = rounds[-1]
    first_third, last_third = thirds(last["rewards"])
    return {
        **{key: statistics.median(warm(rounds, key)) for key in ("seconds", "cpu_seconds")},
        "completion_tokens": statistics.fmean(warm(rounds, "tokens")),
        "peak_memory_gb": max(one["peak_memory_gb"] for one in rounds),
        "first_reward": statistics.fmean(first_third),
        "last_reward": statistics.fmean(last_third),
        "learnt": has_risen(first_third, last_third),
        "accuracy": last["accuracy"],
        "blas": last["blas"],
        "versions": last["versions"],
        "rounds": list(rounds),
    }


def warm(rounds: Sequence[dict[str, Any]], key: str) -> list[float]:
    """A number of every step but each round's first."""
    return [number for one in rounds for number in one[key][1:]]


def thirds(numbers: list[float]) -> tuple[list[float], list[float]]:
    """The first and the last third, of one number at least."""
    count = max(1, len(numbers) // 3)
    return numbers[:count], numbers[-count:]


def has_risen(before: list[float], after: list[float]) -> bool | None:
    """True if the mean has risen by more than two standard errors; None if there are too few numbers."""
    if len(before) < 2:
        return None
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in (before, after)))
    return statistics.fmean(after) - statistics.fmean(before) > 2 * error


def table(result: dict[str, Any]) -> Table:
    """One row a peer; its seconds also relative to ours."""
    job = result["job"]
    title = (
        f"{job['model']} ({result['parameters'] / 1e6:.1f} M), {job['dataset']}: {job['prompts']} × "
        f"{job['generations']} completions of up to {job['new_tokens']} tokens, {job['steps']} steps"
    )
    rendered = Table(title=title, caption=caption(result))
    rendered.add_column("peer")
    for heading in ("s/step", "CPU s", "× grpo", "tokens", "peak GB", "reward", "learnt", "accuracy"):
        rendered.add_column(heading, justify="right")
    ours = result["peers"].get("grpo", {}).get("seconds")
    for name, peer in result["peers"].items():
        if "failed" in peer:
            rendered.add_row(name, "failed", *[""] * 7)
            continue
        rendered.add_row(
            name,
            f"{peer['seconds']:.3f}",
            f"{peer['cpu_seconds']:.3f}",
            f"{peer['seconds'] / ours:.2f}" if ours else "",
            f"{peer['completion_tokens']:.1f}",
            f"{peer['peak_memory_gb']:.2f}",
            f"{peer['first_reward']:.2f} → {peer['last_reward']:.2f}",
            {True: "yes", False: "no", None: ""}[peer["learnt"]],
            percent(peer["accuracy"]),
        )
    return rendered


def caption(result: dict[str, Any]) -> str:
    """The untrained accuracy, the BLAS of the peers, and the failures."""
    peers = result["peers"]
    failures = [f"{name} failed: {peer['failed']}" for name, peer in peers.items() if "failed" in peer]
    names: dict[str, list[str]] = {}  # of a BLAS → of the peers that use it
    for name, peer in peers.items():
        if blas := peer.get("blas"):
            names.setdefault(blas["name"], []).append(name)
    used = [f"{blas} ({', '.join(users)})" if len(names) > 1 else blas for blas, users in names.items()]
    before = f"accuracy before: {percent(result['accuracy']) or 'not measured'}"
    return "; ".join([before, *([f"BLAS: {', '.join(used)}"] if used else []), *failures])


def percent(share: float | None) -> str:
    """A share as text; empty for None."""
    return "" if share is None else f"{share:.0%}"
