"""PEFT's adapter_config.json: the shape and the scales of its LoRA adapters, without MLX.

    config = parse_peft_config(content, folder)
    config.scale_of("model.layers.0.self_attn.q_proj", rank=8)      # alpha / r, or alpha / √r with rsLoRA

A setting that changes the adapters' output and has no counterpart in mlx-lm is an error that names it.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import one_line, quoted
from grpo_cli.untrusted_json import Schema, checked, shown

PEFT_WEIGHTS, PEFT_PICKLE = "adapter_model.safetensors", "adapter_model.bin"
OF_PEFT = ("peft_type", "base_model_name_or_path")  # keys that only PEFT writes
HIGHEST_RANK = 1 << 16
MERGE = (
    'python -c "from peft import AutoPeftModelForCausalLM as M; '
    "M.from_pretrained('{folder}').merge_and_unload().save_pretrained('merged')\""
)
# Settings without a counterpart; besides these every `use_…` that is not in KNOWN_USES.
UNKNOWN_HERE = (
    *("layer_replication", "trainable_token_indices", "target_parameters", "lora_bias"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
KNOWN_USES = ("use_rslora", "use_dora")
# Initial values that leave the base as it is; the others (PiSSA, OLoRA, …) take a part out of its weights.
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
MOST_REPEATS, LONGEST_PATTERN = 3, 200  # a pattern is a stranger's: a short match cannot take minutes


class PeftConfig(Schema):
    """adapter_config.json of PEFT's LoRA."""

    base_model_name_or_path: Annotated[str, Field(min_length=1)]
    r: Annotated[int, Field(ge=1, le=HIGHEST_RANK)]
    lora_alpha: Annotated[float, Field(gt=-1e6, lt=1e6)]
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, Annotated[int, Field(ge=1, le=HIGHEST_RANK)]]
    alpha_pattern: Mapping[str, Annotated[float, Field(gt=-1e6, lt=1e6)]]

    @property
    def model(self) -> str:
        """The base model's name."""
        return self.base_model_name_or_path

    def rank_of(self, module: str) -> int:
        """The rank of a module's adapter."""
        return self.rank_pattern.get(_key_of(self.rank_pattern, module), self.r)

    def scale_of(self, module: str, rank: int) -> float:
        """The factor on a module's adapter: α / r, or α / √r (rsLoRA, arXiv:2312.03732)."""
        alpha = self.alpha_pattern.get(_key_of(self.alpha_pattern, module), self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def is_peft(content: dict[str, Any]) -> bool:
    """True if PEFT wrote this adapter_config.json."""
    return any(key in content for key in OF_PEFT)


def parse_peft_config(content: dict[str, Any], folder: Path) -> PeftConfig:
    """Validate PEFT's settings.

    Raises DamagedFile for wrong types, ModelError for another kind of adapters and for settings that mlx-lm's
    adapters cannot express.
    """
    kind = content.get("peft_type")
    if kind != "LORA":
        raise not_converted(folder, f"peft_type = {shown(kind)}")
    found = [key for key in UNKNOWN_HERE if content.get(key)]
    found += [key for key in content if key.startswith("use_") and key not in KNOWN_USES and content[key]]
    if found:
        raise not_converted(folder, f"{one_line(found[0])[:80]} = {shown(content[found[0]])}")
    if content.get("bias", "none") != "none":
        raise not_converted(folder, f"bias = {shown(content['bias'])}")
    if content.get("init_lora_weights", True) not in HARMLESS_STARTS:
        raise not_converted(folder, f"init_lora_weights = {shown(content['init_lora_weights'])}")
    for key in ("rank_pattern", "alpha_pattern"):
        content = {**content, key: content.get(key) or {}}
        for pattern in content[key] if isinstance(content[key], dict) else ():
            if not _is_quick(pattern):
                raise not_converted(folder, f"{key} with {shown(pattern)}")
    return checked(PeftConfig, content)


def not_converted(folder: Path, what: str) -> ModelError:
    """The error for PEFT adapters that have no exact counterpart here."""
    return ModelError(
        f"The PEFT adapters in {folder} cannot be converted exactly: mlx-lm has no counterpart for {what}",
        "merge them into their base and use the result: `pip install peft`, "
        f"`{MERGE.format(folder=folder)}`, "
        "copy the tokenizer's files of the base into `merged`; or train adapters here (`lora_rank = 8`)",
        trouble="model-weights",
    )


def only_a_pickle(folder: Path) -> ModelError:
    """The error for PEFT adapters without a safetensors file."""
    return ModelError(
        f"The adapters in {folder} are only in {PEFT_PICKLE}, a pickle that can run code",
        f"save them again with `save_pretrained(…, safe_serialization=True)` of peft, which writes "
        f"{PEFT_WEIGHTS}; or look for a repository that has it: `ls {quoted(folder)}`",
        trouble="model-weights",
    )


def _is_quick(pattern: str) -> bool:
    """True for a pattern that matches in a short time: few repetitions, none of a group, no look-around."""
    repeats = len(re.findall(r"[*+?{]", pattern))
    if len(pattern) > LONGEST_PATTERN or repeats > MOST_REPEATS or re.search(r"\)[*+?{]|\(\?", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _key_of(patterns: Iterable[str], module: str) -> str:
    """The first pattern that fits the end of a module's path, as PEFT matches them; else the path."""
    fitting = (pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module))
    return next(fitting, module)
