"""The memory budget of this machine, and the needs of the usual models.

budget(machine, probe)                                            # bytes; None: unknown
typical_needs(MODELS[2].shape, MODELS[2].parameters, width=2)     # MemoryNeeds, for training all weights
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_cli.device import CGROUP_LIMITS, usable_memory
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.engine.host.facts import meminfo
from grpo_cli.engine.memory.estimate import (
    FLOAT32,
    OPTIMIZER_STATES,
    BatchSizes,
    MemoryNeeds,
    Shape,
    estimate,
)

# One prompt, 8 completions: the smallest sensible GRPO step.
TYPICAL = BatchSizes(rollout_rows=8, update_prompts=1, update_rows=8, prompt_length=256, new_tokens=128)
TYPICAL_WORDS = "1 prompt of 256 tokens, 8 completions of 128, AdamW"
RANK = 16  # of the adapters
CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


@dataclass(frozen=True)
class TypicalModel:
    """A model that people train: its name, number of parameters and shape."""

    name: str
    parameters: int
    shape: Shape


MODELS = (
    TypicalModel(
        "SmolLM2-135M",
        134_515_008,
        Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_width=192, vocabulary=49152),
    ),
    TypicalModel(
        "Qwen2.5-0.5B",
        494_032_768,
        Shape(layers=24, hidden=896, intermediate=4864, heads=14, kv_width=128, vocabulary=151936),
    ),
    TypicalModel(
        "nanochat-d20",
        560_988_160,
        Shape(layers=20, hidden=1280, intermediate=5120, heads=10, kv_width=1280, vocabulary=65536),
    ),
    TypicalModel(
        "Qwen2.5-1.5B",
        1_543_714_304,
        Shape(layers=28, hidden=1536, intermediate=8960, heads=12, kv_width=256, vocabulary=151936),
    ),
    TypicalModel(
        "nanochat-d32",
        1_879_048_192,
        Shape(layers=32, hidden=2048, intermediate=8192, heads=16, kv_width=2048, vocabulary=65536),
    ),
    TypicalModel(
        "Qwen2.5-3B",
        3_085_938_688,
        Shape(layers=36, hidden=2048, intermediate=11008, heads=16, kv_width=256, vocabulary=151936),
    ),
    TypicalModel(
        "Qwen2.5-7B",
        7_615_616_512,
        Shape(layers=28, hidden=3584, intermediate=18944, heads=28, kv_width=512, vocabulary=152064),
    ),
)


def typical_needs(
    shape: Shape, parameters: int, width: int, rank: int = 0, batch: BatchSizes = TYPICAL
) -> MemoryNeeds:
    """Memory for training with AdamW. `width`: bytes of a weight; `rank`: of LoRA adapters (0: all weights).

    Half-precision weights that are trained have float32 copies; adapters are float32 themselves.
    """
    trained = adapter_numbers(shape, rank) if rank else parameters
    copies = 1 if width < FLOAT32 and not rank else 0
    weights = parameters * width + (trained * FLOAT32 if rank else 0)
    optimizer = trained * FLOAT32 * (OPTIMIZER_STATES["adamw"] + copies)
    return estimate(shape, batch, weights, optimizer, trained, width)


def rollouts_alone(shape: Shape, parameters: int, width: int) -> int:
    """Bytes for sampling without training, as in evaluation or generation."""
    return estimate(shape, TYPICAL, parameters * width, 0, 0, width).rollout_peak


def adapter_numbers(shape: Shape, rank: int) -> int:
    """Parameters of LoRA adapters on the four attention and three feed-forward matrices of each layer."""
    attention = 4 * shape.hidden + 2 * (shape.hidden + shape.kv_width)
    feed_forward = 3 * (shape.hidden + shape.intermediate)
    return shape.layers * rank * (attention + feed_forward)


def width_here(probe: Mapping[str, Any]) -> int:
    """Bytes of a weight in computation: 4 on a CPU, which computes in float32, else 2."""
    return FLOAT32 if probe.get("device", "cpu") == "cpu" else 2


def budget(machine: Machine, probe: Mapping[str, Any]) -> int | None:
    """Memory budget in bytes: Metal's recommended maximum, the card's free memory, else available memory."""
    info, kind = probe.get("info") or {}, probe.get("device")
    keys = {"metal": ("max_recommended_working_set_size",), "cuda": ("free_memory", "total_memory")}
    for key in keys.get(str(kind), ()):
        if isinstance(info.get(key), int) and info[key] > 0:
            return int(info[key])
    known = [size for size in (total(machine), available(machine)) if size is not None]
    return min(known) if known else None


def total(machine: Machine) -> int | None:
    """Memory in bytes: the machine's, or its container's limit if that is lower."""
    physical = machine.memory_bytes()
    limits = [text for path in CGROUP_LIMITS if (text := machine.text(path))]
    return usable_memory(physical, limits) if physical else None


def container_limit(machine: Machine) -> int | None:
    """The container's limit in bytes; None without one, or if it is above the machine's memory."""
    physical, usable = machine.memory_bytes(), total(machine)
    return usable if usable is not None and physical is not None and usable < physical else None


def available(machine: Machine) -> int | None:
    """Bytes that can be allocated without swapping; None if unknown."""
    if machine.system == "Darwin":
        return free_pages(machine.output("vm_stat") or "")
    free = meminfo(machine).get("MemAvailable")
    limit = container_limit(machine)
    if limit is None:
        return free
    used = next(
        (int(text) for path in CGROUP_USED if (text := machine.text(path)) and text.strip().isdigit()), 0
    )
    left = max(0, limit - used)
    return left if free is None else min(free, left)


def free_pages(vm_stat: str) -> int | None:
    """Bytes that macOS can allocate without swapping: free, speculative and inactive pages."""
    size = re.search(r"page size of (\d+) bytes", vm_stat)
    pages = dict(re.findall(r"^Pages (\w+):\s*(\d+)\.", vm_stat, re.MULTILINE))
    if size is None or "free" not in pages:
        return None
    return int(size[1]) * sum(int(pages.get(name, 0)) for name in ("free", "inactive", "speculative"))
