"""Conversions of small checkpoints: their checks, their tensors, and why they are refused."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.convert.options import CheckResult, Conversion, Options
from grpo_cli.convert.run import convert
from grpo_cli.errors import ModelError

VERSIONS = ["october", "january", "current"]
CHECKS = ["weights", "strict load", "finite", "tokenizer", "generation"]


def converted(source: object, **options: Any) -> tuple[Conversion, list[CheckResult]]:
    checks: list[CheckResult] = []
    done = convert(str(source), Options(**options), on_check=checks.append)
    return done, checks


def refusal(source: object, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as error:
        converted(source, **options)
    assert sorted(path.name for path in Path().glob("models/*")) == []  # nothing is left
    assert not list(Path().rglob("*grpo-tmp*"))
    return error.value


def stored(folder: Path) -> dict[str, mx.array]:
    found: Any = mx.load(str(folder / "model.safetensors"))
    return found


def refusal_in(source: Path, folder: Path, **options: Any) -> ModelError:
    """A refusal that leaves the other models of the folder alone."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(ModelError) as error:
        converted(source, **options)
    assert sorted(folder.rglob("*")) == before
    return error.value
