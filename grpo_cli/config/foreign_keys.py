"""Keys of TRL, PEFT, mlx-lm-lora and unsloth: our key and value for each.

    translated("lora_alpha", 32, {"lora_alpha": 32, "lora_r": 16})   → Translation({"lora_scale": 2.0}, …)
    translated("use_vllm", True, {})                                 → Translation({}, "rollouts are …")
    translated("seeed", 3, {})                                       → None: an unknown key

Three tables: renamed keys, keys whose value needs conversion, and keys without a counterpart.
Every proposed value is valid; an invalid one has no translation.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_cli.config.fields import default, parse_toml_value
from grpo_cli.config.meant import BOOLEANS, is_valid, meant
from grpo_cli.config.schema import SUPERSEDED, Config

Written = Mapping[str, Any]  # all keys of the file, by the names it uses
USUAL_RANK = 16  # TRL's default `lora_r`

RENAMED = {
    **SUPERSEDED,
    "lr": "learning_rate",
    "beta": "kl_coeff",
    "kl_beta": "kl_coeff",
    "epsilon": "clip_eps",
    "epsilon_low": "clip_eps",
    "epsilon_high": "clip_eps_high",
    "model": "model_name",
    "model_id": "model_name",
    "model_path": "model_name",
    "model_name_or_path": "model_name",
    "data": "dataset",
    "dataset_name": "dataset",
    "dataset_config_name": "dataset_config",
    "dataset_train_split": "train_split",
    "dataset_test_split": "eval_split",
    "dataset_prompt_column": "prompt_column",
    "prompt": "prompt_column",
    "prompt_feature": "prompt_column",
    "answer_feature": "answer_column",
    "system_feature": "system_column",
    "num_train_epochs": "num_epochs",
    "epochs": "num_epochs",
    "iters": "max_steps",
    "max_samples": "max_train_samples",
    "num_samples": "max_train_samples",
    "n_samples": "num_generations",
    "group_size": "num_generations",  # mlx-lm-lora's G; ours is for quantised rollouts
    "group_count": "num_generations",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "reward_funcs": "reward_functions",
    "precision": "dtype",
    "torch_dtype": "dtype",
    "torch_compile": "use_compile",
    "gradient_checkpointing": "grad_checkpoint",
    "use_gradient_checkpointing": "grad_checkpoint",
    "random_state": "seed",
    "data_seed": "seed",
    "optim": "optimizer",
    "lr_scheduler": "lr_scheduler_type",
    "lr_schedule": "lr_scheduler_type",
    "grpo_loss_type": "loss_type",
    "adv_estimator": "advantage_estimator",
    "importance_sampling": "importance_sampling_level",
    **{f"entropy_coef{end}": f"entropy_coeff{end}" for end in ("", "_min", "_max", "_delta")},
    "lora": "lora_rank",
    "lora_r": "lora_rank",
    "max_lora_rank": "lora_rank",
    "r": "lora_rank",
    "rank": "lora_rank",
    "num_layers": "lora_layers",
    "lora_num_layers": "lora_layers",
    "steps_per_report": "logging_steps",
    "steps_per_eval": "eval_steps",
    "val_batches": "eval_samples",
    "save_every": "save_steps",
    "save_total_limit": "keep_checkpoints",
    "adapter_path": "output_dir",
    "stop_strings": "stop",
    "chat_template_args": "chat_template_kwargs",
}

_SAMPLED_HERE = "rollouts are sampled by MLX in this process"
_NO_SUCH_SETUP = "the machines are set up by `grpo launch`"
_ONLY_GRPO = "`grpo train` only trains with GRPO"
_HUB = "checkpoints stay on this machine"
_BY_ENVIRONMENT = (
    "a tracker of `report_to` reads its own environment variables: WANDB_PROJECT, TRACKIO_PROJECT, "
    "MLFLOW_EXPERIMENT_NAME, …"
)
LEFT_OUT = {
    **dict.fromkeys(("train", "train_mode", "do_train", "trainer_type", "task"), _ONLY_GRPO),
    **dict.fromkeys(("use_vllm", "use_transformers_paged", "fast_inference"), _SAMPLED_HERE),
    **dict.fromkeys(("gpu_memory_utilization", "cache_implementation"), _SAMPLED_HERE),
    **dict.fromkeys(("deepspeed", "fsdp", "ddp_timeout", "ddp_find_unused_parameters"), _NO_SUCH_SETUP),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo"), _HUB),
    **dict.fromkeys(("target_modules", "lora_target_modules", "keys"), "LoRA adapts every linear layer"),
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "load_in_4bits", "load_in_8bits", "load_in_6bits"),
        "the model's files determine it: choose a quantized model",
    ),
    **dict.fromkeys(
        ("max_seq_length", "max_length"),
        "`max_prompt_length` and `max_new_tokens` limit prompt and completion",
    ),
    **dict.fromkeys(
        ("tf32", "attn_implementation", "dataloader_num_workers", "remove_unused_columns", "adam_epsilon"),
        "it has no effect here",
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "bias", "lora_task_type", "trust_remote_code"),
        "it has no effect here",
    ),
    **dict.fromkeys(("log_level", "logging_strategy", "logging_first_step"), "use `logging_steps`"),
    **dict.fromkeys(
        ("project", "project_name", "trackio_space_id", "trackio_bucket_id", "tracking_uri"), _BY_ENVIRONMENT
    ),
    **dict.fromkeys(("logging_dir", "tensorboard_dir"), "tensorboard's files are in the run's folder"),
    "reference_model_path": "the reference is the initial model",
    **dict.fromkeys(
        ("reward_model_path", "reward_model_name_or_path", "judge_model", "ruler_judge_model"),
        'a model that judges is `judge`, with the reward "judge" in `reward_functions`',
    ),
    "overwrite_output_dir": "a run's folder is never overwritten",
    "eval_on_start": "the model is always evaluated before the first step",
    "test": "use `grpo eval`",
}
_LEFT_OUT_BEGINNINGS = {
    "vllm_": _SAMPLED_HERE,
    "fsdp_": _NO_SUCH_SETUP,
    "hub_": _HUB,
    "wandb_": _BY_ENVIRONMENT,
}


@dataclass(frozen=True)
class Translation:
    """Our keys and values for another program's key; empty if it has no counterpart. `why`: a remark."""

    ours: dict[str, Any]
    why: str = ""


def translated(key: str, value: Any, written: Written) -> Translation | None:
    """Our keys for another program's key; None if the key is unknown or its value cannot be translated."""
    name = key.lower().replace("-", "_")
    found = _translated(name, value, written)
    if found is None or all(is_valid(ours, given) for ours, given in found.ours.items()):
        return found
    return None


def _translated(name: str, value: Any, written: Written) -> Translation | None:
    if name in CONVERTED:
        return CONVERTED[name](value, written)
    if name in RENAMED:
        return _as(RENAMED[name], value)
    if name in LEFT_OUT:
        return Translation({}, LEFT_OUT[name])
    beginning = next((start for start in _LEFT_OUT_BEGINNINGS if name.startswith(start)), None)
    return Translation({}, _LEFT_OUT_BEGINNINGS[beginning]) if beginning else None


def _as(key: str, value: Any, why: str = "") -> Translation | None:
    """The value under our key, corrected if its intended value is clear."""
    ours = value if is_valid(key, value) and key != "reward_functions" else meant(key, value)
    return None if ours is None else Translation({key: ours}, why)


def _number(value: Any) -> float | None:
    """The value as a float, also from text: YAML reads 1e-5 as text."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _first(written: Written, *names: str) -> float | None:
    """The first of these keys whose value is above 0."""
    given = (_number(written.get(name)) for name in names)
    return next((number for number in given if number and number > 0), None)


def _is_on(value: Any) -> bool:
    return value if isinstance(value, bool) else BOOLEANS.get(str(value).lower(), False)


def _batch(value: Any, written: Written) -> Translation | None:
    """Batch size in prompts; TRL counts completions."""
    count, group = _number(value), _first(written, "num_generations") or default("num_generations")
    if count is None or count < 1:
        return None
    why = f"it counts completions; batch_size counts prompts of {group:g} completions each"
    return Translation({"batch_size": max(1, int(count // group))}, why)


def _warmup(value: Any, written: Written) -> Translation | None:
    """Warmup steps → warmup_ratio, the share of all steps."""
    steps, total = _number(value), _first(written, "max_steps", "iters")
    if steps is None or steps < 0:
        return None
    if steps == 0:
        return Translation({"warmup_ratio": 0.0})
    if total and steps < total:
        return Translation({"warmup_ratio": round(steps / total, 4)}, "the fraction of all steps")
    return Translation(
        {"warmup_ratio": 0.1}, f"it is a fraction of all steps{'' if total else ', which are not given here'}"
    )


def _alpha(value: Any, written: Written) -> Translation | None:
    """lora_alpha → lora_scale: PEFT multiplies by lora_alpha / rank, or by lora_alpha / √rank with
    use_rslora.
    """
    alpha = _number(value)
    rank = _first(written, "lora_rank", "lora_r", "r", "rank", "max_lora_rank")
    if alpha is None or alpha <= 0:
        return None
    if _is_on(written.get("use_rslora")):
        return Translation({"lora_scale": alpha}, "use_rslora divides it by √lora_rank itself")
    if rank is None:
        ours = {"lora_rank": USUAL_RANK, "lora_scale": alpha / USUAL_RANK}
        return Translation(
            ours, f"the factor is lora_alpha / rank; no rank is given, {USUAL_RANK} is the usual one"
        )
    return Translation(
        {"lora_scale": alpha / rank}, f"the factor is lora_alpha / rank = {alpha:g} / {rank:g}"
    )


def _adapters(value: Any, written: Written) -> Translation | None:
    """Training type (lora, dora or full), or a boolean that enables adapters."""
    word = str(value).lower()
    if word in ("false", "full"):
        return Translation({"lora_rank": 0})
    if word not in ("lora", "dora", "true"):
        return None
    rank = _first(written, "lora_rank", "lora_r", "r", "rank", "max_lora_rank") or USUAL_RANK
    return Translation({"lora_rank": int(rank), **({"lora_type": "dora"} if word == "dora" else {})})


def _dora(value: Any, written: Written) -> Translation | None:
    return _adapters("dora", written) if _is_on(value) else Translation({}, "it is off by default")


def _lora_parameters(value: Any, _: Written) -> Translation | None:
    """mlx-lm's `lora_parameters` table: rank, scale (or alpha), dropout, keys."""
    if not isinstance(value, dict):
        return None
    ours: dict[str, Any] = {}
    for key, inner in (("rank", value.get("rank")), ("lora_alpha", value.get("alpha"))):
        found = _translated(key, inner, {**value, "lora_alpha": value.get("alpha")}) if inner else None
        ours |= found.ours if found else {}
    ours |= {"lora_scale": float(scale)} if (scale := _number(value.get("scale"))) else {}
    return Translation(ours, "dropout is refused, and LoRA adapts every linear layer")


def _precision(name: str) -> Callable[[Any, Written], Translation]:
    def translate(value: Any, _: Written) -> Translation:
        return Translation({"dtype": name}) if _is_on(value) else Translation({}, "use `dtype`")

    return translate


def _strategy(key: str) -> Callable[[Any, Written], Translation]:
    """Translation of an `…_strategy` key: "no" means 0 steps; otherwise the step count decides."""

    def translate(value: Any, _: Written) -> Translation:
        off = str(value).lower() in ("no", "false")
        return Translation({key: 0}) if off else Translation({}, f"use `{key}`")

    return translate


def _correction(key: str) -> Callable[[Any, Written], Translation | None]:
    """A key of TRL's correction for vLLM: here only a quantized copy of the policy needs one."""

    def translate(value: Any, written: Written) -> Translation | None:
        quantized = _is_on(written.get("quantize_for_rollouts"))
        return _as(key, value) if quantized else Translation({}, _SAMPLED_HERE)

    return translate


def _loss(value: Any, written: Written) -> Translation | None:
    """A loss type that is an estimator of advantages here."""
    del written
    name = meant("advantage_estimator", value)
    why = "it is an estimator of advantages, to be combined with any loss_type"
    return None if name is None else Translation({"advantage_estimator": name}, why)


def _normalized(value: Any, _: Written) -> Translation:
    """RLOOTrainer's `normalize_advantages`."""
    if not _is_on(value):
        return Translation({}, "rloo does without it")
    return Translation({"advantage_estimator": "reinforce_plus_plus_baseline"}, "normalized over the batch")


def _with_wandb(value: Any, _: Written) -> Translation:
    return Translation({"report_to": ["wandb"]} if _is_on(value) else {}, "it is one of several trackers")


def _full(value: Any, _: Written) -> Translation:
    return Translation({"lora_rank": 0}) if _is_on(value) else Translation({}, "use `lora_rank`")


def _keyword(name: str) -> Callable[[Any, Written], Translation | None]:
    """Translation of a keyword of the chat template that another program has a key for."""

    def translate(value: Any, _: Written) -> Translation | None:
        boolean = BOOLEANS.get(str(value).lower()) if name == "enable_thinking" else value
        return None if boolean in (None, "") else Translation({"chat_template_kwargs": {name: boolean}})

    return translate


CONVERTED: dict[str, Callable[[Any, Written], Translation | None]] = {
    "per_device_train_batch_size": _batch,
    "warmup_steps": _warmup,
    "lora_alpha": _alpha,
    "train_type": _adapters,
    "fine_tune_type": _adapters,
    "use_peft": _adapters,
    "use_lora": _adapters,
    "use_dora": _dora,
    "lora_parameters": _lora_parameters,
    "full_finetuning": _full,
    "use_wandb": _with_wandb,
    "loss_type": _loss,
    "vllm_importance_sampling_mode": _correction("importance_sampling_mode"),
    "vllm_importance_sampling_cap": _correction("importance_sampling_cap"),
    "vllm_importance_sampling_clip_max": _correction("importance_sampling_cap"),
    "vllm_importance_sampling_clip_min": _correction("importance_sampling_clip_min"),
    "normalize_advantages": _normalized,
    "enable_thinking": _keyword("enable_thinking"),
    "reasoning_effort": _keyword("reasoning_effort"),
    "bf16": _precision("bfloat16"),
    "fp16": _precision("float16"),
    "eval_strategy": _strategy("eval_steps"),
    "evaluation_strategy": _strategy("eval_steps"),
    "save_strategy": _strategy("save_steps"),
}


def fitting(key: str, value: Any, written: Written) -> Translation | None:
    """Our keys and values for any key, ours or another program's; values are corrected where the intent is
    clear.
    """
    if key in Config.model_fields:
        other = None if is_valid(key, value) else translated(key, value, written)
        return other or _as(key, value)
    return translated(key, value, written)


def own_value(spelled: str) -> Any:
    """The value of a TOML expression, or the text itself: a shell passes unquoted text to unknown keys."""
    found = parse_toml_value(spelled)
    return spelled if found is None else found
