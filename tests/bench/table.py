"""The benchmark's result as a table."""

from typing import Any

from rich.table import Table

ROWS = (
    ("rollout", "rollouts"),
    ("batch_generate", "mlx_lm.batch_generate, same prompts"),
    ("update", "update"),
    ("forward_backward", "bare forward and backward, same tokens"),
    ("step", "whole step"),
)


def table(result: dict[str, Any]) -> Table:
    """One row a part: seconds, tokens per second, peak memory."""
    device, blas = result["device"], result["device"]["blas"]
    title = (
        f"{result['model']} ({result['parameters'] / 1e6:.1f} M) on {device['name']}: "
        f"{result['prompts']} × {result['generations']} completions of {result['new_tokens']} tokens"
    )
    rates = f"rollouts {result['rollout_speedup']:.2f} × as fast as batch_generate"
    if "update_overhead" in result:
        rates += f"; update {result['update_overhead']:.2f} × forward and backward"
    rendered = Table(title=title, caption=rates + (f"; BLAS {blas['name']}" if blas else ""))
    rendered.add_column("part")
    for heading in ("seconds", "tokens/s", "peak GB"):
        rendered.add_column(heading, justify="right")
    for key, label in ROWS:
        if key not in result:
            continue
        part = result[key]
        cells = (
            f"{part['seconds']:.3f}",
            f"{part['tokens_per_second']:,.0f}",
            f"{part['peak_memory_gb']:.2f}",
        )
        rendered.add_row(label, *cells)
    return rendered


COUNTS = (
    ("calls", "calls into MLX"),
    ("nodes", "graph nodes"),
    ("late_nodes", "of them submitted by reading a value"),
)


def counts_table(result: dict[str, Any]) -> Table:
    """One decoding step in counts that hold on every device: ours beside mlx-lm's."""
    counted = result["decoding"]
    rows, least = counted["rows"], counted["least_bytes"]
    caption = f"weights and KV cache, each prompt once: {least / 1e6:,.1f} MB"
    rendered = Table(title=f"{result['model']}: one decoding step of {rows} rows", caption=caption)
    rendered.add_column("per step")
    both = [counted[name] for name in ("rollout", "batch_generate")]
    for heading in ("rollouts", "batch_generate"):
        rendered.add_column(heading, justify="right")
    for key, label in COUNTS:
        rendered.add_row(label, *(f"{one[key]:,.0f}" for one in both))
    rendered.add_row("evaluations", *(evaluations(one["evaluations"]) for one in both))
    each = [sum(one["evaluations"].values()) / rows for one in both]
    rendered.add_row("evaluations per token", *(f"{number:.3f}" for number in each))
    rendered.add_row("MB read", *(f"{one['bytes_read'] / 1e6:,.1f}" for one in both))
    rendered.add_row("ms of the Python thread", *(f"{1e3 * one['host_seconds']:.2f}" for one in both))
    return rendered


def evaluations(counts: dict[str, float]) -> str:
    """The evaluations by name: "1 async_eval, 3 tolist"."""
    return ", ".join(f"{number:g} {name}" for name, number in sorted(counts.items()))


UPDATE_ROWS = (
    ("update", "update, optimizer included"),
    ("gradient", "its gradient alone"),
    ("prefix_shared", "bare forward and backward, prompt read once"),
    ("whole_sequences", "bare forward and backward, whole sequences"),
)


def update_table(result: dict[str, Any], case: dict[str, Any]) -> Table:
    """One case of the update beside its yardsticks: seconds, peak memory, and that above what rests."""
    title = (
        f"{result['model']}: prompt {case['prompt_tokens']}, {case['generations']} completions of "
        f"{case['new_tokens']} tokens"
    )
    shared, plain = case["gradient_over_prefix_shared"], case["gradient_over_whole_sequences"]
    caption = (
        f"gradient {shared:.2f} × prompt read once (goal 1.10), {plain:.2f} × whole sequences; "
        f"with the optimizer {case['update_over_prefix_shared']:.2f} ×"
    )
    rendered = Table(title=title, caption=caption)
    rendered.add_column("part")
    for heading in ("seconds", "peak GB", "above resting"):
        rendered.add_column(heading, justify="right")
    for key, label in UPDATE_ROWS:
        part = case[key]
        peak = part["peak_memory_gb"]
        cells = (f"{part['seconds']:.3f}", f"{peak:.2f}", f"{peak - case['resting_memory_gb']:.2f}")
        rendered.add_row(label, *cells)
    return rendered
