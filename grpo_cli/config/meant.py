"""Guess the intended value for a key from an invalid one.

meant("stop", "</answer>")          → ["</answer>"]
meant("scale_rewards", False)       → "none"           (TRL's false)
meant("optimizer", "adamw_8bit")    → "adamw"
meant("seed", "x")                  → None: no guess
"""

import math
from typing import Any

from pydantic import ValidationError

from grpo_cli.config.fields import (
    choices,
    element_type,
    parse_table,
    parse_toml_value,
    toml_value,
    value_type,
)
from grpo_cli.config.schema import Config
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.rewards.table import is_builtin

BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

# Values of TRL, PEFT, mlx-lm-lora and unsloth (as lower-case text) → ours.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "scale_rewards": {"true": "group", "false": "none", "std": "group"},
    "advantage_estimator": {
        **dict.fromkeys(("group_norm", "group"), "grpo"),
        **dict.fromkeys(("rloo", "rloo_vectorized"), "rloo"),
        **dict.fromkeys(("reinforce++", "reinforce_plus_plus"), "reinforce_plus_plus"),
        **dict.fromkeys(
            ("reinforce++-baseline", "reinforce++_baseline", "reinforce_plus_plus_baseline"),
            "reinforce_plus_plus_baseline",
        ),
        "maxrl": "maxrl",
    },
    "lora_rank": {"true": 8, "false": 0},
    "lora_layers": {"-1": 0},
    "max_steps": {"-1": 0},
    "log_completions": {"true": 4, "false": 0},
    "report_to": {
        **dict.fromkeys(("wb", "weights_and_biases", "weights & biases"), "wandb"),
        **dict.fromkeys(("tb", "tensorboardx"), "tensorboard"),
    },
    "lr_scheduler_type": {
        "cosine_with_min_lr": "cosine",
        "cosine_with_restarts": "cosine",
        "cosine_decay": "cosine",
        "polynomial": "linear",
        "constant_with_warmup": "constant",
    },
    "dtype": {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "false": "auto"},
    "reward_functions": {
        **dict.fromkeys(("accuracy", "accuracy_reward", "r1_accuracy"), "correctness"),
        **dict.fromkeys(("format", "format_reward", "think_format_reward", "r1_soft_format"), "soft_format"),
        **dict.fromkeys(("tag_count", "tag_count_reward", "r1_count_xml"), "xmlcount"),
        "r1_int": "int",
        "r1_strict_format": "strict_format",
    },
}
OPTIMIZERS = ("muon", "adamw", "lion", "adam", "sgd")  # matched as a substring, as in `paged_adamw_8bit`


def is_valid(key: str, value: Any) -> bool:
    """True if the schema accepts the value for the key."""
    try:
        Config.model_validate({key: value})
    except ValidationError:
        return False
    return True


def meant(key: str, value: Any) -> Any:
    """The valid value that was probably intended, or None."""
    found = _list_meant(key, value) if value_type(key) is list else _elsewhere(key, value)
    if found is None and value_type(key) is not list:
        spelled = mended(value_type(key), value)
        found = None if spelled is None else parse_toml_value(spelled)
    return found if found is not None and is_valid(key, found) else None


def _elsewhere(key: str, value: Any) -> Any:
    """Our value for another program's; if only one choice exists, that one."""
    if not isinstance(value, str | bool | int | float):
        return choices(key)[0] if len(choices(key)) == 1 else None
    word = str(value).strip().lower().removeprefix("torch.")
    if key == "optimizer":
        return next((name for name in OPTIMIZERS if name in word), None)
    if value_type(key) is str and value is False and not choices(key):
        return ""
    return ELSEWHERE.get(key, {}).get(word)


def _list_meant(key: str, value: Any) -> list[Any] | None:
    """The value's items converted to the key's item type; None if one cannot be converted."""
    split = key in ("reward_functions", "report_to") or element_type(key) is not str
    if isinstance(value, str):  # a comma may be part of a stop text
        value = value.split(",") if split else [value]
    elif not isinstance(value, list):
        value = [value]
    items = [_item(key, item) for item in value if not (isinstance(item, str) and not item.strip())]
    return None if any(item is None for item in items) else items


def _item(key: str, item: Any) -> Any:
    kind = element_type(key)
    if isinstance(item, str):
        item = item if key == "stop" else item.strip()
        item = ELSEWHERE.get(key, {}).get(item.lower().removesuffix("_reward_func"), item)
    if key == "reward_functions":
        return (
            item if isinstance(item, str) and (is_builtin(item) or RewardSpec.parse(item).is_file) else None
        )
    if type(item) is kind:
        return item
    spelled = mended(kind, item)
    return None if spelled is None else parse_toml_value(spelled)


def mended(kind: type, value: Any) -> str | None:
    """The probable TOML spelling of a value of the wrong type, or None."""
    text = str(value).strip().strip("\"'").strip()
    if kind is dict:
        table = parse_table(text)
        return None if table is None else toml_value(table)
    if kind is bool:
        boolean = BOOLEANS.get(text.lower())
        return None if boolean is None else toml_value(boolean)
    if kind is str:
        known = isinstance(value, str | int | float) and not isinstance(value, bool)
        return toml_value(text) if known else None
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        return None
    return text if type(parse_toml_value(text)) is kind else toml_value(kind(number))
