"""A small config.json for every type of model of mlx-lm: `KINDS["llama, sliding"]` = its fields.

A name is the module of mlx-lm, and behind a comma the variant. Each has grouped keys, more than one chosen
expert, windows shorter than the longest prompt, and a layer of every sort that the type has.
"""

import re
from pathlib import Path
from typing import Any

import mlx_lm.models

from tests.support.model_kinds.base import BASE, WINDOW, Fields
from tests.support.model_kinds.dense import DENSE
from tests.support.model_kinds.experts import MIXTURES
from tests.support.model_kinds.latent import LATENTS
from tests.support.model_kinds.states import STATES
from tests.support.model_kinds.windows import WINDOWS
from tests.support.model_kinds.wrapped import WRAPPED

IS_MODEL = re.compile(r"^class ModelArgs\b.*^class Model\(", re.MULTILINE | re.DOTALL)
__all__ = ("BASE", "KINDS", "WINDOW", "config_of", "module_of", "untried")
KINDS: dict[str, Fields] = dict(
    sorted({**DENSE, **WINDOWS, **MIXTURES, **LATENTS, **STATES, **WRAPPED}.items())
)


def module_of(name: str) -> str:
    """The module of mlx-lm."""
    return name.partition(",")[0]


def config_of(name: str, **changes: Any) -> Fields:
    """The config.json of a kind, with other values by `changes`."""
    return {**BASE, "model_type": module_of(name), **KINDS[name], **changes}


def untried() -> list[str]:
    """Modules of the installed mlx-lm that have a model and no configuration here."""
    folder = Path(mlx_lm.models.__path__[0])
    models = {path.stem for path in folder.glob("*.py") if IS_MODEL.search(path.read_text(encoding="utf-8"))}
    return sorted(models - {module_of(name) for name in KINDS})
