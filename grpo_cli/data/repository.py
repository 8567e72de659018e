"""The files of each split in a cloned hub repository, found as `datasets` does.

Its README (or .huggingface.yaml) may name them; otherwise the patterns of `datasets` apply, such as
`train/0000.parquet` or `data/my-validation.csv`. Loading scripts are ignored. Only files inside the
folder are used: a description that points outside or to the network is refused.
"""

import tempfile
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from grpo_cli.data.readers import suffix_of
from grpo_cli.errors import DataError

README, YAML = "README.md", ".huggingface.yaml"
DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
READ = {"data_files", "data_dir", "default", "description", "version", "drop_labels", "features"}


def described(folder: Path, config_name: str) -> dict[str, list[Path]]:
    """The files named in the repository's description; empty if it names none."""
    text = "".join(read_text(folder / name) for name in (README, YAML))
    if "configs:" not in text:  # true of most folders, and `datasets` takes seconds to import
        return {}
    import yaml
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    try:
        card = DatasetCard.load(folder / README).data if (folder / README).is_file() else DatasetCardData()
        more = yaml.safe_load(read_text(folder / YAML))
        configs = MetadataConfigs.from_dataset_card_data(
            DatasetCardData(**{**card.to_dict(), **more}) if isinstance(more, dict) else card
        )
        default = configs.get_default_config_name()
    # Both libraries use the description's YAML values without checking their types.
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise refused(folder, " ".join(str(error).split())[:200]) from error
    if not configs:
        return {}
    chosen = config_name or default
    if chosen not in configs:
        raise DataError(
            f"Configuration not found: `{chosen or ''}` in {folder}",
            f"set dataset_config to one of {', '.join(configs)}",
        )
    return files_of(folder, configs[chosen])


def files_of(folder: Path, config: dict[str, Any]) -> dict[str, list[Path]]:
    """The files of one configuration in a repository's description."""
    unknown = sorted(set(config) - READ)
    if unknown:
        raise refused(folder, f"it sets `{unknown[0]}`, which is not read here")
    root, patterns = str(config.get("data_dir") or ""), config.get("data_files")
    for text in [root, *texts_in(patterns)]:
        if "://" in text or "::" in text or Path(text).is_absolute() or ".." in Path(text).parts:
            raise refused(folder, f"it names {text!r}, which is not in the folder")
    return resolved(folder / root, patterns)


def texts_in(patterns: Any) -> list[str]:
    """The paths in a description's `data_files`."""
    if isinstance(patterns, dict):
        return texts_in(list(patterns.values()))
    if isinstance(patterns, list):
        return [text for item in patterns for text in texts_in(item)]
    return [patterns] if isinstance(patterns, str) else []


def found(root: Path, split_names: Sequence[str]) -> dict[str, list[Path]]:
    """The files that `datasets` finds without a description.

    Splits whose files are in several folders (perhaps configurations) are left out, and so are several files
    not named after a split: `datasets` would merge them.
    """

    def above(path: Path) -> tuple[str, ...]:
        """The folders above the one named after a split."""
        return tuple(takewhile(lambda part: part not in split_names, path.relative_to(root).parent.parts))

    return {
        split: paths
        for split, paths in resolved(root, None).items()
        if len({above(path) for path in paths}) == 1
    }


def resolved(folder: Path, patterns: Any) -> dict[str, list[Path]]:
    """The files of each split, by patterns or by the names that `datasets` knows."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "repository"  # so that the folder's own name is not matched as a pattern
        base.symlink_to(folder.resolve(), target_is_directory=True)
        try:
            chosen = sanitize_patterns(patterns) if patterns else get_data_patterns(str(base))
            files = DataFilesDict.from_patterns(chosen, base_path=str(base))
        except (EmptyDatasetError, FileNotFoundError):
            return {}
        paths = {
            str(split): [folder / Path(name).relative_to(base) for name in names]
            for split, names in files.items()
        }
    is_rest = not patterns and chosen == {"train": ["**"]}
    taken = {split: list(filter(is_data, names)) for split, names in paths.items()}
    return {split: names for split, names in taken.items() if names and not (is_rest and len(names) > 1)}


def is_data(path: Path) -> bool:
    """True for a file with a readable data format."""
    return bool(suffix_of(path)) and path.name not in DESCRIPTIONS


def read_text(path: Path) -> str:
    """A description's text; empty if it does not exist."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def refused(folder: Path, reason: str) -> DataError:
    """The error for a description that cannot be followed."""
    return DataError(
        f"Cannot follow the description in {folder}: {reason}",
        "name a data file in it, or copy those you want into a folder as train.jsonl and test.jsonl",
    )
