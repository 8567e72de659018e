"""Load a policy: weights, tokenizer and adapters.

    policy = load_policy("HuggingFaceTB/SmolLM2-135M-Instruct")

A name is `tiny` (the embedded model), a folder, or a hub repository. A folder with
adapter_config.json is a LoRA checkpoint: its base is loaded and the adapters are added.
Weights load strictly: a missing or unknown tensor is an error, never a random layer.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import dequantize_model

from grpo_cli import device
from grpo_cli.errors import GrpoError, ModelError
from grpo_cli.files import expanded_name
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapter_config import read_adapter_config
from grpo_cli.models.adapters import LoRA, load_adapters
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.classes import NEWER, UnknownKind, load_weights, model_classes, refuse_problems
from grpo_cli.models.config_check import check_config
from grpo_cli.models.find import TINY, adapters_base, check_model_folder, find_model
from grpo_cli.models.model_files import BREAKDOWNS, CONFIG, has_tokenizer, json_problems, tensors_in
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.older_keys import with_older_keys
from grpo_cli.models.tokenizer import ChatTokenizer, Tokenizer
from grpo_cli.models.tokenizer_files import read_tokenizer, rust_panics, try_tokenizer
from grpo_cli.models.tree import flat
from grpo_cli.models.trial import try_out
from grpo_cli.trust import without_code_in
from grpo_cli.untrusted_json import DamagedFile, read_object

OF_THE_MODEL = ("config.json", "generation_config.json", "hf_quant_config.json")
EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "lm_head.weight")  # one row per token id
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@dataclass(kw_only=True)
class Policy:
    """A model for sampling and training, with everything its folder needs to be loaded again."""

    model: nn.Module
    tokenizer: Tokenizer
    config: dict[str, Any]  # config.json
    path: Path  # local folder of the base weights
    source: str  # the name it was requested by: a folder, a repository, or "tiny"
    lora: LoRA | None = None  # its adapters, if any
    start: dict[str, mx.array] = field(default_factory=dict)  # adapters that training began with; empty: new
    generation_config: bytes | None = None  # generation_config.json, if the folder has one
    plan: BatchPlan = field(default_factory=BatchPlan)  # batch layout that the model supports

    @property
    def portable_source(self) -> str:
        """The source's name in a form that works from any folder."""
        folder = Path(expanded_name(self.source))
        return str(folder.resolve()) if self.source != "tiny" and folder.is_dir() else self.source

    @property
    def parameter_count(self) -> int:
        return _size(self.model.parameters())

    @property
    def trainable_count(self) -> int:
        """Number of parameters that training updates."""
        return _size(self.model.trainable_parameters())


def load_policy(name: str, dtype: str = "auto", for_training: bool = False, base: str = "") -> Policy:
    """Load model and tokenizer by name; `base` overrides the base model that adapters name.

    `for_training`: all weights will be trained, so that a quantized model is dequantized; adapters leave it.

    Raises ModelError for a folder or repository that is missing, incomplete or inconsistent with its
    config.json, or whose tokenizer does not fit the model.
    """
    path = find_model(name)
    is_adapter = (path / "adapter_config.json").exists()
    source = (base or read_adapter_config(path).model) if is_adapter else name
    folder = adapters_base(path, base) if is_adapter else path
    model, config = load_model_folder(folder)
    model, config = _convert_weights(model, config, dtype, for_training and not is_adapter)
    tokenizer = load_tokenizer(folder, config, is_checked=True)  # by load_model_folder
    check_vocabulary(tokenizer, model, config, folder)
    ends = tokenizer.turn_ends if isinstance(tokenizer, ChatTokenizer) else []
    lora = load_adapters(model, path) if is_adapter else None
    mx.eval(model.parameters())
    try_out(model, path)
    return Policy(
        model=model,
        tokenizer=tokenizer,
        config=with_ends(config, ends),
        path=folder,
        source=source,
        lora=lora,
        generation_config=generation_config(folder, ends),
    )


def with_ends(config: dict[str, Any], ends: list[int]) -> dict[str, Any]:
    """A model's settings with further end tokens, so that mlx-lm ends on them when it loads a checkpoint."""
    return {**config, "eos_token_id": [*(_eos_ids(config) or []), *ends]} if ends else config


def generation_config(folder: Path, ends: list[int] | None = None) -> bytes | None:
    """A folder's generation_config.json without names of code; None if it is missing or not JSON.

    `ends`: end tokens to add if it lists any.
    """
    path = folder / "generation_config.json"
    try:
        content = without_code_in(path.read_bytes()) if path.is_file() else None
        if content is None or not ends or not json.loads(content).get("eos_token_id"):
            return content
        return json.dumps(with_ends(json.loads(content), ends), indent=2).encode()
    except (ValueError, RecursionError):
        return None


def unread_model(name: str) -> nn.Module | None:
    """The model described by a local folder's config.json, with weights that are never read.

    None if the folder is not here yet, or if loading it will report its config.json.
    """
    path = TINY if name == "tiny" else Path(expanded_name(name))
    try:
        if (path / "adapter_config.json").exists():
            path = Path(read_adapter_config(path).model)
        config = read_object(path / CONFIG)
        model_class, args_class = model_classes(config)
        config = with_older_keys(config, args_class)
        check_config(config, args_class, tensors_in(path))
        model: nn.Module = model_class(args_class.from_dict(config))
    except (GrpoError, DamagedFile, *BREAKDOWNS):
        return None
    return model


def load_model_folder(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A folder's model, loaded lazily and strictly, and its config.json. Raises ModelError if they do not
    fit.
    """
    check_model_folder(path)
    try:
        return load_weights(path)
    except UnknownKind as error:
        raise ModelError(f"{path / CONFIG}: {error}", NEWER, trouble="mlx-lm") from error
    except BREAKDOWNS as error:  # mlx-lm raises ValueError for unusable weights
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ModelError(
            f"The weights in {path} do not fit its config.json: {kind}{error}",
            "download the model again; weights and config.json must come from the same model",
            trouble="model-weights",
        ) from error


def _convert_weights(
    model: nn.Module, config: dict[str, Any], dtype: str, for_training: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Convert the weights to the type used for computation.

    On the CPU that is float32: half precision and quantized products are 50 to 100 times slower there. A
    quantized model is dequantized for the CPU; elsewhere it can only train adapters.
    """
    facts = device.prepare()
    target = dtype if dtype != "auto" else ("float32" if facts.upcast else "")
    if "quantization" in config and (facts.upcast or for_training):
        model, config = dequantized(model, config, exactly=target == "float32")
    if target:
        model.set_dtype(DTYPES[target])
        config = {**config, "torch_dtype": target}
    return model, config


def dequantized(
    model: nn.Module, config: dict[str, Any], exactly: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    """A quantized model and its config.json with dequantized weights; any other model unchanged.

    `exactly`: in float32, in which the product of a half-precision scale and an integer is exact.
    """
    if exactly:
        model.set_dtype(mx.float32)  # of the scales
    model = dequantize_model(model)
    return model, {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}


def load_tokenizer(
    path: Path, config: dict[str, Any], trust_remote_code: bool = False, is_checked: bool = False
) -> Tokenizer:
    """The folder's nanochat tokenizer if it has one, else its Hugging Face tokenizer.

    `trust_remote_code`: the user allows the folder's tokenizer to run its own code. `is_checked`: its files
    were checked with the model's, so they are not parsed once more. Raises ModelError if its files are
    missing or damaged, or if it needs such code.
    """
    if (path / "tokenizer.pkl").exists():
        return NanochatTokenizer.load(path)
    for problem in () if is_checked else json_problems(path):
        if problem.path.name in OF_THE_MODEL:  # transformers reads them too
            refuse_problems([problem])
        raise unusable(path, f"{problem.path.name} {problem.text}")
    if not trust_remote_code and not has_tokenizer(path):
        raise ModelError(
            f"{path / 'tokenizer.json'} is missing: {path} has no tokenizer",
            "copy or download tokenizer.json and tokenizer_config.json of the same model",
            trouble="tokenizer",
        )
    try:
        with rust_panics():
            tokenizer = ChatTokenizer(read_tokenizer(path, _eos_ids(config), trust_remote_code))
            tokenizer.add_turn_ends()
            try_tokenizer(tokenizer)
            return tokenizer
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises Exception itself, transformers' classes anything
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise needs_own_code(path) from error
        raise unusable(path, f"{type(error).__name__}: {str(error)[:200]}") from error


def unusable(path: Path, problem: str) -> ModelError:
    """The error for damaged tokenizer files."""
    return ModelError(
        f"The tokenizer in {path} cannot be loaded: {problem}",
        "copy tokenizer.json and tokenizer_config.json from the same model",
        trouble="tokenizer",
    )


def needs_own_code(path: Path) -> ModelError:
    """The error for a tokenizer that only the folder's own code can build."""
    return ModelError(
        f"The tokenizer in {path} needs code of its own, which is not run",
        f"read the code in the folder; then `grpo convert {quoted(path)} --trust-remote-code` runs "
        "it once and writes a folder whose tokenizer needs none",
        trouble="own-code",
    )


def _eos_ids(config: dict[str, Any]) -> list[int] | None:
    """End tokens named in config.json, as a list; None if it has none."""
    eos = config.get("eos_token_id")
    return [eos] if isinstance(eos, int) else eos


def check_vocabulary(tokenizer: Tokenizer, model: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Raise ModelError for a tokenizer of another model: MLX silently returns garbage for ids without a row.

    nanochat's tokenizer has exactly the model's tokens. Others may have fewer than the model has rows, or
    added tokens beyond them; those are refused where they occur (`check_prompts`).
    """
    tokens = config.get("vocab_size")
    if isinstance(tokenizer, NanochatTokenizer) and tokenizer.vocab_size != tokens:
        raise ModelError(
            f"The tokenizer in {path} has {tokenizer.vocab_size} tokens, the model {tokens}",
            "take tokenizer.pkl from the same nanochat run; another tokenizer gives garbled text",
            trouble="vocabulary",
        )
    rows = rows_of(model)
    if rows is not None and tokenizer.needed_size > rows:
        raise ModelError(
            f"The tokenizer in {path} needs {tokenizer.needed_size} ids, the model has only {rows} rows",
            "take the tokenizer files from the same model; another tokenizer gives garbled text",
            trouble="vocabulary",
        )


def rows_of(model: nn.Module) -> int | None:
    """Rows of the model's token embedding; None if it has no known name."""
    arrays = flat(model.parameters())
    return max((array.shape[0] for name, array in arrays.items() if name.endswith(EMBEDDINGS)), default=None)


def check_prompts(policy: Policy, prompts: Iterable[list[int]]) -> None:
    """Raise ModelError for a prompt with a token that has no row in the model."""
    rows = rows_of(policy.model)
    largest = max((max(ids) for ids in prompts if ids), default=0)
    if rows is not None and largest >= rows:
        raise ModelError(
            f"The token {policy.tokenizer.spell([largest])!r} ({largest}) occurs in a prompt, "
            f"but the model has only {rows} rows",
            "remove it from the prompts: this model was not trained with it",
            trouble="vocabulary",
        )


def _size(parameters: Any) -> int:
    return sum(array.size for array in flat(parameters).values())
