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
