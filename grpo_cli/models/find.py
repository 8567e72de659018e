"""Resolve a model's name to a folder: embedded, on the disk, or fetched from the hub. Loads nothing.

    find_model("tiny")                                       # the embedded model's
    find_model("HuggingFaceTB/SmolLM2-135M-Instruct")        # in the hub cache, downloaded if needed

Needs neither MLX nor transformers, so that a missing model is reported before they are imported.
"""

import re
from pathlib import Path

from grpo_cli.config.local_model import check_name
from grpo_cli.errors import ModelError
from grpo_cli.files import expanded_name
from grpo_cli.foreign_text import quoted
from grpo_cli.models import hub
from grpo_cli.models.adapter_config import ADAPTER_CONFIG, read_adapter_config
from grpo_cli.models.peft_config import OF_PEFT, PeftConfig

TRAINER_STATE = "trainer_state.json"  # a checkpoint of a run has it
TINY = Path(__file__).parent / "tiny"
UNCONVERTED = re.compile(r"model_\d+\.pt")  # nanochat's weights
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja", "tokenizer.pkl"]


def find_model(name: str, on_progress: hub.Progress = hub.no_progress) -> Path:
    """The local folder of a model, downloaded from the hub if it is a repository.

    Raises ModelError for an unknown name, and for anything that the hub refuses.
    """
    if name == "tiny":
        return TINY
    path = Path(expanded_name(name))
    if path.is_dir():
        return path
    check_name(name)
    return hub.fetch(name, HUB_FILES, on_progress)


def check_model_folder(folder: Path) -> None:
    """Raise ModelError for a folder without a model, or with one that must be converted first."""
    if (folder / "config.json").exists():
        return
    names = sorted(child.name for child in folder.iterdir())
    hint = "name the folder that holds config.json and model.safetensors"
    if any(map(UNCONVERTED.fullmatch, names)):
        hint = f"it is a nanochat checkpoint: convert it with `grpo convert {quoted(folder)}`"
    found = ", ".join(names[:8]) or "nothing"
    raise ModelError(f"{folder} is not a model folder: config.json is missing (found: {found})", hint)


def warm_start(model_name: str, adapter: str = "") -> Path | None:
    """The folder of the adapters that training starts from: `adapter`, or the model itself if it holds some.

    None for a plain model. Raises ModelError if `adapter` holds none, or its base is adapters itself.
    """
    folder = find_model(model_name)
    is_adapters = (folder / ADAPTER_CONFIG).exists()
    if not adapter:
        return folder if is_adapters else None
    if is_adapters:
        raise ModelError(
            f"{model_name} holds adapters, and so cannot be the base of `adapter`",
            f"write its base into `model_name`: {read_adapter_config(folder).model}",
        )
    found = find_model(adapter)
    if not (found / ADAPTER_CONFIG).exists():
        raise ModelError(
            f"{adapter} holds no adapters: {ADAPTER_CONFIG} is missing",
            "name a folder that `mlx_lm.lora`, this program or peft wrote; `model_name` takes a full model",
        )
    return found


def adapters_base(folder: Path, base: str = "") -> Path:
    """The folder of the base model of a folder's adapters.

    Raises ModelError, naming the adapter file, if it is gone.
    """
    config = read_adapter_config(folder)
    try:
        return find_model(base or config.model)
    except ModelError as error:
        key = OF_PEFT[1] if isinstance(config, PeftConfig) else "model"
        if (folder / TRAINER_STATE).exists():
            cure = f"resume with `grpo resume {quoted(folder)} --set model_name=DIR`"
        else:
            cure = f"train with `--set model_name=DIR --set {quoted(f'adapter={folder}')}`"
        raise ModelError(
            f"{error.message}: the adapters in {folder} were trained on it",
            f"restore it; if it is now in DIR, {cure} or write DIR into `{key}` of {folder / ADAPTER_CONFIG}",
            trouble=error.trouble,
        ) from error
