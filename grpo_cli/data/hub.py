"""Read a dataset from the hub with `datasets`, which caches downloads."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from grpo_cli.data.readers import rows_of
from grpo_cli.data.rows import Row
from grpo_cli.errors import DataError

# Default configuration of datasets that have several.
DEFAULT_CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}


def read(name: str, config_name: str, split: str, limit: int = 0) -> Iterator[Row]:
    """The first `limit` rows of a split (0: all).

    Raises DataError for a dataset, configuration or split that does not exist, or without a network.
    """
    silence = unreachable(name)
    import datasets  # takes seconds, and local data do not need it
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    datasets.disable_progress_bars()
    try:
        config = config_name or DEFAULT_CONFIGS.get(name)
        with quiet(from_cache=silence is not None):
            # Versions before 4 run a repository's script, and prompt for consent unless told otherwise.
            found = datasets.load_dataset(name, config, split=split, trust_remote_code=False)
    except DatasetNotFoundError as error:
        raise DataError(f"Dataset not found: {name}", NOT_FOUND) from error
    except ConnectionError as error:
        raise not_reached(name, silence or error) from error
    except ValueError as error:  # the message lists the configurations or splits that exist
        raise DataError(
            f"Failed to load dataset {name}, split `{split}`: {first_line(error)}",
            "set dataset_config, train_split and eval_split to names that the dataset has",
        ) from error
    except (DatasetsError, OSError, RuntimeError) as error:
        raise DataError(
            f"Failed to load dataset {name}, split `{split}`: {first_line(error)}", LOCAL_COPY
        ) from error
    return rows_of(found.select(range(min(limit or len(found), len(found)))), name)


def unreachable(name: str) -> Exception | None:
    """The error that keeps the hub from answering; None if it answered at all.

    One request without retries: `datasets` makes several and retries each six times.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        HfApi().dataset_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HfHubHTTPError, HFValidationError, ValueError):  # an answer, or a name for `datasets` to refuse
        return None
    except (HTTPError, OSError) as error:
        return error
    return None


@contextmanager
def quiet(from_cache: bool) -> Iterator[None]:
    """Silence both libraries' logs: their exceptions contain the same text.

    `from_cache`: make no requests, as with HF_HUB_OFFLINE=1, and use only downloaded files.
    """
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    datasets.logging.set_verbosity_error()
    before = logging.get_verbosity(), constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    logging.set_verbosity_error()
    if from_cache:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before[1:]


def not_reached(name: str, error: Exception) -> DataError:
    """The error for a dataset that is not cached while the hub is unreachable or offline mode is set."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        why, cure = "HF_HUB_OFFLINE=1 forbids access to the hub", "`unset HF_HUB_OFFLINE`"
    else:
        why = f"the hub {constants.ENDPOINT} cannot be reached ({first_line(error)})"
        cure = f"check the network with `curl -I {constants.ENDPOINT}`"
    return DataError(
        f"Dataset not reachable: {name} is neither on this disk nor in the local cache, and {why}",
        f"{cure}, or {LOCAL_COPY}",
        trouble="hub",
    )


LOCAL_COPY = "set `dataset` to a local copy, a folder with train.jsonl and test.jsonl"


NOT_FOUND = "a hub name is `owner/name`, a local one a path that exists; for a private one: `hf auth login`"


def meant_arithmetic(name: str) -> str:
    """The hint for a name close to the embedded task's, else ""."""
    return "did you mean `arithmetic`?" if get_close_matches(name.lower(), ["arithmetic"], cutoff=0.8) else ""


def first_line(error: Exception) -> str:
    """The library's message on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
