"""Read a dataset from the hub through `datasets`, which keeps downloads in its own cache."""

from collections.abc import Iterator
from difflib import get_close_matches

from grpo_cli.data.readers import rows_of
from grpo_cli.data.rows import Row
from grpo_cli.errors import DataError

# Datasets with several configurations of which one is what everybody means.
DEFAULT_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}


def read(name: str, config_name: str, split: str, limit: int = 0) -> Iterator[Row]:
    """The first `limit` rows of a split (0: all).

    Raises DataError for a dataset, configuration or split that does not exist, or without a network.
    """
    import datasets  # takes seconds, and local data do without
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # what it logs comes back in the exceptions below
    try:
        config = config_name or DEFAULT_CONFIGS.get(name)
        # Versions before 4 run a repository's own script, and ask where nothing is said.
        found = datasets.load_dataset(name, config, split=split, trust_remote_code=False)
    except DatasetNotFoundError as error:
        raise DataError(f"Dataset not found: {name}", NOT_FOUND) from error
    except ConnectionError as error:
        raise DataError(f"Dataset not reachable: {name}: {first_line(error)}", OFFLINE) from error
    except ValueError as error:  # the message lists the configurations or splits that exist
        raise DataError(
            f"Failed to load dataset {name}, split `{split}`: {first_line(error)}",
            "set dataset_config, train_split and eval_split to names that the dataset has",
        ) from error
    except (DatasetsError, OSError, RuntimeError) as error:
        raise DataError(
            f"Failed to load dataset {name}, split `{split}`: {first_line(error)}", OFFLINE
        ) from error
    return rows_of(found.select(range(min(limit or len(found), len(found)))), name)


OFFLINE = (
    "point `dataset` at a local copy, a folder with train.jsonl and test.jsonl; "
    "a dataset that was downloaded before also loads with HF_HUB_OFFLINE=1"
)


NOT_FOUND = "a hub name is `owner/name`, a local one a path that exists; for a private one: `hf auth login`"


def meant_arithmetic(name: str) -> str:
    """A hint for a name that is nearly the embedded task's, else nothing."""
    return "did you mean `arithmetic`?" if get_close_matches(name.lower(), ["arithmetic"], cutoff=0.8) else ""


def first_line(error: Exception) -> str:
    """What the library says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
