"""The memory that a configuration needs, estimated from the headers of its model's files without loading.

    needs = needed(config, folder, on_cpu=True)
    needs.peak / 1e9      # GB

The estimate is the engine's. Before the first step the engine repeats it with the loaded model and the real
prompts. Here prompts are assumed to be as long as the configuration allows: an upper bound.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.config.local_model import local_folder, positions, read_config
from grpo_cli.config.schema import Config
from grpo_cli.doctor.read.model_folder import bits_of, unpacked_numbers
from grpo_cli.errors import ModelError
from grpo_cli.models.adapter_config import read_adapter_config
from grpo_cli.models.peft_config import PeftConfig
from grpo_cli.models.safetensors_header import BITS, Tensor, read_header
from grpo_cli.untrusted_json import DamagedFile

if TYPE_CHECKING:
    from grpo_cli.engine.memory.estimate import MemoryNeeds, Shape
    from grpo_cli.engine.memory.verdict import MemoryVerdict

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SUMS_PROMPT = 64  # tokens; the embedded task's prompts are shorter


@dataclass(frozen=True)
class Weights:
    """The arrays in a model's files by name, with the bytes of one number."""

    tensors: dict[str, Tensor]
    width: int  # of most of them
    stored: int  # bytes in the files

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def numbers(self) -> int:
        """Number of stored parameters; packed words count as one each."""
        return self.unpacked(0)

    def unpacked(self, bits: int) -> int:
        """Number of parameters after unpacking quantised ones of `bits` bits each (0: none are packed)."""
        return unpacked_numbers(self.tensors.values(), bits)

    def adapters(self, rank: int, last_layers: int) -> int:
        """Parameters of LoRA adapters of `rank` on the matrices of the last layers (0: all layers)."""
        from grpo_cli.engine.memory.estimate import lora_numbers

        return lora_numbers(self.shapes, rank, last_layers)


def weights_in(folder: Path) -> Weights | None:
    """The weights according to the headers of a folder's safetensors files; None if missing or damaged."""
    tensors: dict[str, Tensor] = {}
    try:
        for path in sorted(folder.glob("model*.safetensors")):
            tensors |= read_header(path)
    except (OSError, DamagedFile):  # the check model-files reports it
        return None
    if not tensors:
        return None
    by_width: dict[int, int] = {}
    for tensor in tensors.values():
        width = max(1, BITS[tensor.dtype] // 8)
        by_width[width] = by_width.get(width, 0) + tensor.size
    stored = sum(tensor.end - tensor.begin for tensor in tensors.values())
    return Weights(tensors, max(by_width, key=lambda width: by_width[width]), stored)


def shape_of(folder: Path, on_cpu: bool = True) -> "Shape | None":
    """The model's shape from its config.json; None if a key is missing or a value is absurd."""
    from grpo_cli.engine.memory.estimate import Shape

    try:
        shape = Shape.of(read_config(folder), on_cpu)
    except (ZeroDivisionError, OverflowError):  # heads = 0, or an infinite number
        return None
    return shape if shape and is_credible(shape) else None


def is_credible(shape: "Shape") -> bool:
    """True if no size is absurd. A model of states alone has no heads and no feed-forward layers."""
    every = {**vars(shape), **(vars(shape.states) if shape.states else {})}
    sizes = {name: size for name, size in every.items() if name not in ("states", "keeps_scores")}
    optional = {"heads", "kv_width", "intermediate", "replaced", "delta_chunk"} if shape.states else set()
    return all((0 if name in optional else 1) <= size < 1 << 32 for name, size in sizes.items())


def needed(config: Config, folder: Path, on_cpu: bool, rows: int | None = None) -> "MemoryNeeds | None":
    """Memory for training; None if the model's shape is unknown. `rows`: maximum completions at once."""
    from grpo_cli.engine.memory.estimate import FLOAT32, OPTIMIZER_STATES, BatchSizes, estimate

    shape, weights, facts = shape_of(folder, on_cpu), weights_in(folder), read_config(folder)
    if shape is None or weights is None:
        return None
    config = with_warm_start(config)
    full = config.lora_rank == 0
    numbers, size, width = _in_memory(config, weights, facts, on_cpu)
    trained = numbers if full else weights.adapters(config.lora_rank, config.lora_layers)
    master = FLOAT32 if full and width < FLOAT32 else 0
    shares = shares_prompts(facts)
    in_groups = on_cpu and shares and shape.states is None
    batch = BatchSizes.of(config, prompt_length(config, facts), shares, True, rows, in_groups)
    copies = 2 if full and config.kl_coeff > 0 else 1  # the reference
    adapters = 0 if full else FLOAT32 * trained
    optimizer = trained * (OPTIMIZER_STATES[config.optimizer] * FLOAT32 + master)
    judge, judging = judge_bytes(config, on_cpu)
    held = copies * size + adapters + _rounded_copy(config, numbers, on_cpu, width) + judge
    return replace(estimate(shape, batch, held, optimizer, trained, width), judging=judging)


def judge_bytes(config: Config, on_cpu: bool) -> tuple[int, int]:
    """Bytes of a judge's weights, and of its answering; 0 without one, or if its files are not here."""
    from grpo_cli.engine.memory.estimate import judging_bytes

    folder = local_folder(config.judge) if config.has_judge and config.judge else None
    shape, weights = (shape_of(folder), weights_in(folder)) if folder else (None, None)
    if folder is None or weights is None:
        return 0, 0
    # A judge is not trained, so that only a CPU unpacks it, as for adapters.
    frozen = config.model_copy(update={"lora_rank": 1})
    _, size, width = _in_memory(frozen, weights, read_config(folder), on_cpu)
    return size, judging_bytes(shape, config, width) if shape else 0


def with_warm_start(config: Config) -> Config:
    """The configuration with the rank and layers of the adapters that `adapter` names, if they are here."""
    folder = local_folder(config.adapter) if config.adapter else None
    if folder is None or config.lora_rank:
        return config
    try:
        found = read_adapter_config(folder)
    except ModelError:  # training reports it
        return config.model_copy(update={"lora_rank": 1})
    shape = (found.r, 0) if isinstance(found, PeftConfig) else (found.lora.rank, found.lora.layers)
    return config.model_copy(update=dict(zip(("lora_rank", "lora_layers"), shape, strict=True)))


def shares_prompts(facts: dict[str, Any]) -> bool:
    """True if completions can share one KV cache of their prompt: in the update and, on a CPU, in sampling.

    Not with sliding windows, whose caches rotate, nor with nanochat_v2, whose cache holds token ids.
    """
    slides = bool(facts.get("sliding_window")) and facts.get("use_sliding_window") is not False
    return not slides and facts.get("model_type") != "nanochat_v2"


def trained_numbers(config: Config, folder: Path, on_cpu: bool) -> int | None:
    """Number of parameters that an update changes; None if the model's files cannot be read."""
    weights = weights_in(folder)
    if weights is None:
        return None
    config = with_warm_start(config)
    numbers, _, _ = _in_memory(config, weights, read_config(folder), on_cpu)
    return numbers if config.lora_rank == 0 else weights.adapters(config.lora_rank, config.lora_layers)


def _rounded_copy(config: Config, numbers: int, on_cpu: bool, width: int) -> int:
    """Bytes of the quantised copy that rollouts use. A CPU keeps its rounded weights in float32."""
    if not config.quantize_for_rollouts:
        return 0
    if on_cpu:
        return DTYPE_BYTES["float32"] * numbers
    return numbers * config.bits // 8 + 2 * width * numbers // config.group_size


def _in_memory(config: Config, weights: Weights, facts: dict[str, Any], on_cpu: bool) -> tuple[int, int, int]:
    """Parameters, their bytes, and bytes of each, once loaded. A CPU unpacks quantised weights."""
    kind = config.dtype if config.dtype != "auto" else ("float32" if on_cpu else "")
    bits = bits_of(facts)
    packed = weights.unpacked(bits) if bits else 0
    if packed and (on_cpu or config.lora_rank == 0):
        return packed, packed * DTYPE_BYTES.get(kind, 2), DTYPE_BYTES.get(kind, 2)
    if packed:
        return packed, weights.stored, DTYPE_BYTES.get(kind, 2)
    width = DTYPE_BYTES.get(kind, weights.width)
    return weights.numbers, weights.numbers * width, width


def prompt_length(config: Config, facts: dict[str, Any]) -> int:
    """Length of the longest possible prompt, in tokens."""
    most = config.max_prompt_length if config.dataset != "arithmetic" else SUMS_PROMPT
    return min(most, max(1, (positions(facts) or most)))


def verdict_on(config: Config, folder: Path, there: int, on_cpu: bool) -> "MemoryVerdict | None":
    """The engine's verdict for a budget of `there` bytes; None if the model's shape is unknown."""
    from grpo_cli.engine.memory.verdict import judge

    if needed(config, folder, on_cpu) is None:
        return None

    def needs_of(changed: Config, rows: int | None) -> "MemoryNeeds":
        needs = needed(changed, folder, on_cpu, rows)
        assert needs is not None  # the shape is known
        return needs

    return judge(with_warm_start(config), there, needs_of)
