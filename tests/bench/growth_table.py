"""The arithmetic of `python -m tests.bench.growth`: the work of a step, exponents, tables."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

PARTS = ("rollout", "update")
SECONDS = tuple(f"{part}_{kind}" for part in PARTS for kind in ("seconds", "cpu_seconds"))
MEMORY = ("rollout_peak_gb", "update_peak_gb", "peak_memory_gb", "resident_gb")


def work(point: dict[str, int], model: dict[str, Any]) -> float:
    """Multiplications of a forward over P prompts, read once, and their P·G completions, for a llama.

    Layers: 2 h² (1 + k/q) of attention and 3 h f of the feed-forward a token; scores and values: 2 h a token
    and position before it. Head: h V a completion token.
    """
    prompts, group, prompt = point["prompts"], point["generations"], point["prompt"]
    completion, hidden = point["completion"], model["hidden_size"]
    heads = model["num_attention_heads"]
    shared = model.get("num_key_value_heads", heads) / heads
    width = model.get("head_dim", hidden // heads) * heads
    layer = 2 * hidden * width * (1 + shared) + 3 * hidden * model["intermediate_size"]
    before = prompt**2 / 2 + group * completion * (prompt + completion / 2)  # positions, of all tokens
    layers = model["num_hidden_layers"] * ((prompt + group * completion) * layer + 2 * width * before)
    return float(prompts * (layers + group * completion * hidden * model["vocab_size"]))


def slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Least squares slope of log values over log sizes; None if there are no two sizes."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / spread if spread else None


def compared(axis: str, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points without the first step of `steps`, which warms up."""
    return [point for point in points if axis != "steps" or point["size"] > 1] or points


def exponents(axis: str, points: list[dict[str, Any]]) -> dict[str, float | None]:
    """By part and kind of memory: over the size, and over the work where that varies."""
    used = compared(axis, points)
    sizes, amounts = ([point[key] for point in used] for key in ("size", "work"))
    found = {}
    for key in (key for key in (*SECONDS, *MEMORY) if key in used[0]):
        values = [point[key] for point in used]
        found[key] = slope(sizes, values)
        found[f"{key}_over_work"] = slope(amounts, values)
    return found


def table(axis: str, found: dict[str, Any]) -> Table:
    """One row a size, and the exponents below."""
    points, fit = found["points"], found["exponents"]
    seconds = [key for key in SECONDS if key in points[0]]
    memory = [key for key in MEMORY if key in points[0]]
    rendered = Table(title=f"growth with {axis}")
    headings = ["work", *[heading for key in seconds for heading in (heading_of(key), "÷ work")]]
    for heading in (axis, *headings, *map(heading_of, memory)):
        rendered.add_column(heading, justify="right")
    first = compared(axis, points)[0]
    for point in points:
        cells = [f"{point['size']:,}", f"{point['work'] / first['work']:.2f}"]
        for key in seconds:
            cells += [f"{point[key]:.3f}", f"{relative(point, first, key):.2f}"]
        rendered.add_row(*cells, *[f"{point[key]:.3f}" for key in memory])
    rendered.add_section()
    for label, suffix in (("exponent", ""), ("over work", "_over_work")):
        cells = [label, ""]
        for key in seconds:
            cells += [number(fit.get(f"{key}{suffix}")), ""]
        rendered.add_row(*cells, *[number(fit.get(f"{key}{suffix}")) for key in memory])
    return rendered


def heading_of(key: str) -> str:
    """A key as a short heading: `update CPU s`."""
    words = {"cpu": "CPU", "seconds": "s", "gb": "GB", "memory": ""}
    return " ".join(filter(None, (words.get(word, word) for word in key.split("_"))))


def relative(point: dict[str, Any], first: dict[str, Any], key: str) -> float:
    """Seconds per unit of work, in those of the first point."""
    return float(point[key] / point["work"] / (first[key] / first["work"]))


def number(value: float | None) -> str:
    """An exponent as text."""
    return "" if value is None else f"{value:.2f}"
