"""The model card of a converted model: README.md with what its run's folder says about it.

    text = model_card(Path("outputs/prod/final"), "Qwen/Qwen2.5-0.5B-Instruct", "mlx")

Names of folders on this machine are cut to their last part: a card is for others.
"""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from grpo_cli.config.fields import toml_value
from grpo_cli.config.load import inspect_config
from grpo_cli.config.schema import Config
from grpo_cli.foreign_text import one_line
from grpo_cli.models.adapter_config import ADAPTER_CONFIG, read_adapter_config
from grpo_cli.untrusted_json import DamagedFile, parse_object, read_bytes

LOG, LARGEST_LOG = "training_log.jsonl", 64 << 20
PATHS = ("model_name", "adapter", "dataset")
LIBRARIES = {
    "mlx": "mlx",
    "hf": "transformers",
    "peft": "peft",
    "gguf": "transformers",
    "nanochat": "nanochat",
}
PACKAGES = ("grpo-cli", "mlx", "mlx-lm")
OMITTED = ("output_dir", "run_name")


def model_card(source: Path, base: str, to: str) -> str:
    """The card's text. `source`: the converted folder, a checkpoint or any model; `base`: its base's name."""
    config = config_of(source)
    named = public(base)
    head = ["---", f"library_name: {LIBRARIES[to]}"]
    head += [f"base_model: {json.dumps(named)}"] if named.count("/") == 1 else []
    head += ["tags:", "- grpo", "- mlx", "---"]
    folder = source.resolve()
    is_of_run = folder.name == "final" or folder.name.startswith("checkpoint-")
    name = (folder.parent if is_of_run else folder).name if config else named.rpartition("/")[2]
    title = f"# {one_line(name)}"  # a model of the hub lies in a folder named by its commit
    told = f"Made from {one_line(named)}"
    if config is None:
        return "\n".join([*head, "", title, "", f"{told}, converted by grpo-cli.", ""])
    parts = [*head, "", title, "", f"{told} by GRPO with grpo-cli.", "", *table(facts(source, config))]
    return "\n".join([*parts, "", "## Configuration", "", "```toml", *settings(config), "```", ""])


def base_name(source: Path, name: str) -> str:
    """The name of the model that a folder was made from: adapters' base, a run's model, or the source."""
    if (source / ADAPTER_CONFIG).exists():
        return read_adapter_config(source).model
    config = config_of(source)
    return config.model_name if config else name


def config_of(source: Path) -> Config | None:
    """The configuration of the run that made a folder; None if it was made by no run."""
    path = source / "config.toml"
    if not path.is_file():
        return None
    loaded = inspect_config(str(path)).loaded
    return loaded.config if loaded else None


def facts(source: Path, config: Config) -> Iterator[tuple[str, str]]:
    """The rows of the card's table."""
    yield "data", " ".join(filter(None, (public(config.dataset), config.dataset_config, config.train_split)))
    weights = zip(config.reward_functions, config.reward_weight_list, strict=True)
    yield "rewards", ", ".join(f"{without_folder(name)} × {weight:g}" for name, weight in weights)
    scores = evaluations(source)
    if scores:
        first, last = scores[0], scores[-1]
        items = f"{first.get('eval_samples', '?')} items of the split {config.eval_split}"
        yield f"accuracy before (step {first['step']})", f"{first['eval_accuracy']:.1%} on {items}"
        yield f"accuracy after (step {last['step']})", f"{last['eval_accuracy']:.1%}"
    yield "loss", config.loss_type
    yield "seed", str(config.seed)
    yield "versions", ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def table(rows: Iterator[tuple[str, str]]) -> list[str]:
    """A Markdown table."""
    cells = [(name, one_line(value).replace("|", "\\|")) for name, value in rows]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)]


def settings(config: Config) -> list[str]:
    """The keys that differ from their defaults, as TOML."""
    found = []
    for key, value in config.model_dump().items():
        if key in OMITTED or value == Config.model_fields[key].get_default(call_default_factory=True):
            continue
        if key in PATHS:
            value = public(value)
        elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            value = [without_folder(entry) for entry in value]
        elif key == "environment":
            value = ", ".join(without_folder(entry) for entry in config.environments)
        found.append(f"{key} = {toml_value(value)}".replace("```", "'''"))
    return found


def evaluations(source: Path) -> list[dict[str, Any]]:
    """The evaluations in the run's log, up to the checkpoint's own step; empty if there is no log."""
    path = source.parent / LOG
    try:
        lines = read_bytes(path, LARGEST_LOG).splitlines()
        state = parse_object(read_bytes(source / "trainer_state.json"))
        found = [parse_object(line) for line in lines]
    except (OSError, DamagedFile):
        return []
    last = state.get("step")
    return [
        line
        for line in found
        if isinstance(line.get("eval_accuracy"), float)
        and isinstance(line.get("step"), int)
        and isinstance(last, int)
        and line["step"] <= last
    ]


def public(name: str) -> str:
    """A model's or dataset's name for others: a hub name as it is, a folder by its last part."""
    is_path = name.startswith(("/", ".", "~")) or name.count("/") != 1 or Path(name).exists()
    return PurePath(name).name if is_path and "/" in name else name


def without_folder(entry: str) -> str:
    """`file.py:name` without the file's folder."""
    return entry.rpartition("/")[2] if ".py" in entry else entry


def version(package: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
