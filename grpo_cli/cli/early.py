"""Check names before MLX and transformers are imported, so that a typing error is reported at once.

    with doing("loading tiny …") as show:
        check_names(config, [config.model_name], show)

The engine repeats the checks for callers that do not use the command line.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.filesize import decimal

from grpo_cli.cli.doing import Show

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config


def check_names(config: "Config", models: Iterable[str], show: Show) -> None:
    """Find models, the judge and the dataset by their names; a hub model is downloaded.

    Raises ModelError and DataError if they do not exist.
    """
    from grpo_cli.data.load import check_dataset

    check_dataset(config.dataset)
    for model in [*models, *([config.judge] if config.has_judge else [])]:
        find(model, show)


def find(model: str, show: Show, base: str = "") -> None:
    """Find a model and, for adapters, their base (`base` in place of the one they name).

    Shows the progress of downloads.
    """
    from grpo_cli.models.find import adapters_base, check_model_folder, find_model

    def progress(done: int, total: int) -> None:
        show(f"downloading {model}: {decimal(done)} of {decimal(total)}")

    folder = find_model(model, progress)
    if (folder / "adapter_config.json").exists():
        adapters_base(folder, base)
    else:
        check_model_folder(folder)
