"""Explain failures of the hub, the network or the disk during a download.

    try:
        HfApi().model_info(repo)
    except FAILURES as error:
        raise explain(repo, error) from error

Each error says what failed and gives the command that fixes it. `explain` classifies by the
library's exceptions and, if those are too general, by the HTTP status.
"""

import errno
import json

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the HTTP client's errors: httpx before huggingface_hub 2, httpx2 since
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from grpo_cli.errors import ModelError

FAILURES = (HTTPError, OSError, HFValidationError, json.JSONDecodeError)  # exceptions of the library
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
AGAIN = "run the same command again: the download continues where it stopped"


def explain(repo: str, error: Exception) -> ModelError:
    """The error for a failed lookup or download of `repo`."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, FAILURES):
        return explain(repo, error.__cause__)  # a mere wrapper
    if isinstance(error, HfHubHTTPError):
        return _refused(repo, error)
    if isinstance(error, HFValidationError):
        return ModelError(
            f"Model not found: {repo}",
            "a hub repository is `owner/name`: letters, digits, `-`, `_` and `.`, 96 characters at most",
            trouble="model-not-found",
        )
    if isinstance(error, json.JSONDecodeError | FileMetadataError):
        return ModelError(
            f"The server at {constants.ENDPOINT}, asked for {repo}, is not the hub: {_reason(error)}",
            "log in to the network if it asks for that, or `unset HF_ENDPOINT`",
            trouble="hub",
        )
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return ModelError(
            f"{repo} is not in the local cache, and HF_HUB_OFFLINE=1 forbids downloading it",
            f"connect once and `HF_HUB_OFFLINE=0 hf download {repo}`, or give the path of a local folder",
            trouble="hub",
        )
    return _unreachable(repo, error) if isinstance(error, HTTPError) else _disk(repo, error)


def missing_file(repo: str, name: str, there: list[str]) -> ModelError:
    """The error for a file that a repository lacks; it lists at most 8 existing files."""
    more = f" and {len(there) - 8} more" if len(there) > 8 else ""
    listed = ", ".join(there[:8]) + more if there else "nothing"
    return ModelError(
        f"The repository {repo} has no {name} (found: {listed})",
        f"name another repository; this one's files are at {constants.ENDPOINT}/{repo}/tree/main",
        trouble="model-not-found",
    )


def broke_off(repo: str, received: int, size: int, error: Exception | None) -> ModelError:
    """The error for a transfer that failed despite retries; `error`: the last failure."""
    if isinstance(error, HfHubHTTPError):
        return explain(repo, error)
    reason = _reason(error) if error else "the server stopped sending"
    if _is_timeout(error):
        reason = f"no data for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s"
    slow = "; on a slow connection, first `export HF_HUB_DOWNLOAD_TIMEOUT=60`" if _is_timeout(error) else ""
    return ModelError(
        f"The download from {repo} broke off at {received:,} of {size:,} bytes: {reason}",
        AGAIN + slow,
        trouble="hub",
    )


def _unreachable(repo: str, error: Exception) -> ModelError:
    """The error if there is no answer at all; only raised if the model is not cached."""
    elsewhere = "or give the path of a local folder"
    if _is_timeout(error):
        return ModelError(
            f"The hub {constants.ENDPOINT} did not answer within {constants.HF_HUB_ETAG_TIMEOUT} s, "
            f"and {repo} is not in the local cache",
            "run the same command again, on a slow connection after `export HF_HUB_ETAG_TIMEOUT=60`, "
            f"{elsewhere}",
            trouble="hub",
        )
    return ModelError(
        f"The hub {constants.ENDPOINT} cannot be reached ({_reason(error)}), "
        f"and {repo} is not in the local cache",
        f"check the network with `curl -I {constants.ENDPOINT}`, {elsewhere}",
        trouble="hub",
    )


def _refused(repo: str, error: HfHubHTTPError) -> ModelError:
    """The error if the hub refuses: the repository is unknown, gated or disabled."""
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"The repository {repo} requires accepting its license",
            f"accept it on the model's page {page}, then `hf auth login` with the same account",
            trouble="hub-token",
        )
    if isinstance(error, DisabledRepoError):
        return ModelError(
            f"The hub has disabled {repo}",
            f"name another model; {page} may say why",
            trouble="model-not-found",
        )
    if error.response.status_code in (401, 403):
        return _unauthorized(repo, error)
    if error.response.status_code == 404:
        return ModelError(
            f"Model not found on the hub: {repo}",
            "check the spelling; for a private repository `hf auth login` with an account that has access",
            trouble="model-not-found",
        )
    return _failed(repo, error)


def _failed(repo: str, error: HfHubHTTPError) -> ModelError:
    """The error if the hub fails for now."""
    status = error.response.status_code
    if status == 429:
        return ModelError(
            f"The hub accepts no more requests from here for now, so {repo} was not downloaded (429)",
            "wait five minutes and run the same command again; `hf auth login` raises the limit",
            trouble="hub",
        )
    if status >= 500:
        return ModelError(
            f"The hub failed for {repo}: {status} {error.response.reason_phrase}",
            "wait a few minutes and run the same command again; https://status.huggingface.co shows its "
            "state",
            trouble="hub",
        )
    said = error.server_message or error.response.reason_phrase
    return ModelError(
        f"The hub refuses {repo}: {status} {said}",
        f"see the model's page {constants.ENDPOINT}/{repo}",
        trouble="hub",
    )


def _unauthorized(repo: str, error: HfHubHTTPError) -> ModelError:
    """The error for 401 and 403: without a token the hub does not distinguish private from misspelt names."""
    status = error.response.status_code
    if "authorization" not in error.response.request.headers:
        return ModelError(
            f"Model not found on the hub: {repo} is private or misspelled ({status})",
            "check the spelling; for a private repository `hf auth login` first",
            trouble="model-not-found",
        )
    wrong = "is wrong or expired" if status == 401 else "has no access to it"
    return ModelError(
        f"The hub refuses {repo}: your token {wrong} ({status})",
        "`hf auth login` again; a token in HF_TOKEN comes first: renew it or `unset HF_TOKEN`",
        trouble="hub-token",
    )


def _disk(repo: str, error: Exception) -> ModelError:
    """The error if the cache cannot be written or read."""
    cache = constants.HF_HUB_CACHE
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return ModelError(
            f"The disk is full: {repo} does not fit into {cache}",
            f"free some space and {AGAIN}; or `export HF_HUB_CACHE=/path/on/another/disk`",
            trouble="disk-space",
        )
    return ModelError(
        f"Failed to write {repo} to {cache}: {_reason(error)}",
        "make the folder writable, or `export HF_HUB_CACHE=/path/of/another/folder`",
        trouble="hub-cache",
    )


def _is_timeout(error: Exception | None) -> bool:
    """True for ConnectTimeout, ReadTimeout and similar errors of httpx or httpx2."""
    return isinstance(error, HTTPError) and type(error).__name__.endswith("Timeout")


def _reason(error: Exception) -> str:
    """The library's message on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
