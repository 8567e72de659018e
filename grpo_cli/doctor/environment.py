"""What programs are installed here, and whether they work together."""

from collections.abc import Iterator

from grpo_cli.doctor.case import Case
from grpo_cli.doctor.findings import Finding, skipped


def python(case: Case) -> Iterator[Finding]:
    """Python's version and the environment it runs in."""
    yield skipped("not written yet")


def system(case: Case) -> Iterator[Finding]:
    """Operating system, chip, and the C library on Linux."""
    yield skipped("not written yet")


def mlx_version(case: Case) -> Iterator[Finding]:
    """mlx is installed, and new enough."""
    yield skipped("not written yet")


def two_backends(case: Case) -> Iterator[Finding]:
    """Not more than one backend of MLX is installed."""
    yield skipped("not written yet")


def mlx_backend(case: Case) -> Iterator[Finding]:
    """MLX computes a product here, and it is right."""
    yield skipped("not written yet")


def mlx_lm_version(case: Case) -> Iterator[Finding]:
    """mlx-lm is installed, and new enough."""
    yield skipped("not written yet")


def nanochat_import(case: Case) -> Iterator[Finding]:
    """mlx-lm's nanochat can be imported."""
    yield skipped("not written yet")


def packages(case: Case) -> Iterator[Finding]:
    """tiktoken, tokenizers, transformers, datasets and huggingface-hub."""
    yield skipped("not written yet")


def compiler(case: Case) -> Iterator[Finding]:
    """Where MLX compiles on Linux: its C++ compiler and cache folder."""
    yield skipped("not written yet")
