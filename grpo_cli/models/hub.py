"""Fetch a model's files from the Hugging Face hub, into the hub library's own cache.

    repository_files("karpathy/nanochat-d32")  # ["README.md", "meta_000650.json", "model_000650.pt", …]
    folder = fetch("karpathy/nanochat-d32", ["model_*.pt"], on_progress=show, check=True)
    folder / "model_000650.pt"                 # a link into the cache

The cache is huggingface_hub's, shared with every other program. But that library deletes the file of a
download that fails (its issue 4196), and gigabytes would start anew. So files are received here: each
grows as `blobs/<checksum>.incomplete`, where the next call goes on, and is renamed when it is whole.
`snapshot_download` then finds all of them there and only links them.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, hf_hub_url, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name, try_to_load_from_cache
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    filter_repo_objects,
    hf_raise_for_status,
    logging,
    tqdm,
)

from grpo_cli.errors import ModelError
from grpo_cli.models.hub_errors import FAILURES, HTTPError, broke_off, explain, missing_file

Progress = Callable[[int, int], None]  # bytes done, an earlier call's included, and bytes in all

WAITS = (1.0, 2.0, 4.0)  # seconds before each new try of a transfer that brings nothing more
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 of a small file, sha256 of a large one


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


def repository_files(repo: str) -> list[str]:
    """The names of a repository's files, sorted; without the hub, those in the cache.

    Raises ModelError for what the hub refuses, or a hub that cannot be reached and nothing in the cache.
    """
    try:
        return sorted(file.rfilename for file in _files(_info(repo)))
    except FAILURES as error:
        folder = _cached(repo, [])
        if folder is None:
            raise explain(repo, error) from error
    return _names(folder)


def fetch(
    repo: str, patterns: Sequence[str], on_progress: Progress = no_progress, check: bool = False
) -> Path:
    """The snapshot folder with the files that match a pattern; those not in the cache are downloaded.

    A transfer that breaks off goes on where it stopped, in this call or the next. `check` compares every
    matching file with the hub's checksum. Without the hub, a complete copy in the cache will do.

    Raises ModelError for what the hub refuses, a network or disk that fails, a pattern that no file
    matches and, with `check`, a damaged file, which is deleted.
    """
    try:
        info = _info(repo)
    except FAILURES as error:
        folder = _cached(repo, patterns)
        if folder is None:
            raise explain(repo, error) from error
    else:
        folder = _download(repo, info, patterns, on_progress)
    if check:
        _check(repo, folder, patterns)
    return folder


def _info(repo: str) -> ModelInfo:
    """What the hub knows of a repository and its files, in one request that is not retried."""
    with _quiet():
        return HfApi().model_info(repo, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def _files(info: ModelInfo) -> list[RepoSibling]:
    return info.siblings or []


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _cached(repo: str, patterns: Sequence[str]) -> Path | None:
    """The snapshot folder in the cache, unless it is known to lack a file that matches."""
    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(patterns), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    some = any(filter_repo_objects(_names(folder), allow_patterns=list(patterns)))
    return folder if some or not patterns else None


def _download(repo: str, info: ModelInfo, patterns: Sequence[str], on_progress: Progress) -> Path:
    """Receive what is missing, then let the library link it."""
    wanted = list(filter_repo_objects(_files(info), allow_patterns=list(patterns), key=_name))
    if not wanted:
        raise missing_file(repo, " or ".join(patterns), sorted(map(_name, _files(info))))
    try:
        with _quiet():
            _receive_missing(repo, info, wanted, on_progress)
            return Path(snapshot_download(repo, allow_patterns=list(patterns), tqdm_class=_Silent))
    except FAILURES as error:
        raise explain(repo, error) from error


def _name(file: RepoSibling) -> str:
    return file.rfilename


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings off the terminal: what they warn of comes as an error, or is mended."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class _Silent(tqdm):
    """The library's progress bar, never shown: it would break into what the caller shows."""

    def __init__(self, *values: Any, **settings: Any) -> None:
        super().__init__(*values, **{**settings, "disable": True})


@dataclass(frozen=True)
class _Blob:
    """A file to receive: where from, where to, and how many bytes."""

    repo: str
    url: str
    path: Path  # blobs/<checksum>
    size: int

    @property
    def partial(self) -> Path:
        """The bytes so far; in no snapshot, so nobody takes it for the file."""
        return self.path.with_name(f"{self.path.name}.incomplete")

    @property
    def received(self) -> int:
        """Bytes so far."""
        return self.partial.stat().st_size


class _Tally:
    """Counts the bytes of all files and passes the sum on."""

    def __init__(self, total: int, report: Progress) -> None:
        self.done, self.total, self.report = 0, total, report

    def add(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)


def _receive_missing(repo: str, info: ModelInfo, wanted: list[RepoSibling], on_progress: Progress) -> None:
    """Receive the files that are not in the cache, one after the other."""
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    locks = storage.parent / ".locks" / storage.name  # the library's own, so that it waits for us
    blobs = [blob for file in wanted if (blob := _missing_blob(repo, info, file, storage)) is not None]
    tally = _Tally(sum(blob.size for blob in blobs), on_progress)
    for blob in blobs:
        locks.mkdir(parents=True, exist_ok=True)
        blob.path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(locks / f"{blob.path.name}.lock"):
            if blob.path.exists():  # another process was quicker
                tally.add(blob.size)
            else:
                _receive_all(blob, tally)
                blob.partial.replace(blob.path)


def _missing_blob(repo: str, info: ModelInfo, file: RepoSibling, storage: Path) -> _Blob | None:
    """What to receive for a file, or None if it is here or for `snapshot_download` to fetch.

    The latter is for a mirror that tells no checksums, and files so large that only Xet serves them.
    """
    checksum = file.lfs.sha256 if file.lfs else file.blob_id
    if checksum is None or not CHECKSUM.fullmatch(checksum):  # it becomes a file's name
        return None
    if file.size is None or file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return None
    path = storage / "blobs" / checksum
    if path.exists() or isinstance(try_to_load_from_cache(repo, file.rfilename, revision=info.sha), str):
        return None
    return _Blob(repo, hf_hub_url(repo, file.rfilename, revision=info.sha), path, file.size)


def _receive_all(blob: _Blob, tally: _Tally) -> None:
    """Receive until the file is whole. Only tries that bring nothing count towards giving up."""
    blob.partial.touch()  # an empty file needs no request
    tally.add(blob.received)
    waits = iter(WAITS)
    while (before := blob.received) != blob.size:
        failure: Exception | None = None
        try:
            _receive(blob, tally)
        except HTTPError as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            failure = error
        if before < blob.received <= blob.size:
            waits = iter(WAITS)
        elif (wait := next(waits, None)) is None:
            raise broke_off(blob.repo, blob.received, blob.size, failure) from failure
        else:
            time.sleep(wait)


def _receive(blob: _Blob, tally: _Tally) -> None:
    """One request, for what is missing; what has come when it fails is kept."""
    start = blob.received if blob.received < blob.size else 0  # longer: other bytes than this file's
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a range counts bytes of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    request = get_session().stream("GET", blob.url, headers=headers, timeout=timeout, follow_redirects=True)
    with request as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206
        if not goes_on:
            tally.add(-blob.received)
        with blob.partial.open("ab" if goes_on else "wb") as stream:
            for block in response.iter_bytes():
                stream.write(block)
                tally.add(len(block))
                if stream.tell() > blob.size:  # a server that sends without end must not fill the disk
                    break


def _check(repo: str, folder: Path, patterns: Sequence[str]) -> None:
    """Compare the files with the checksums that their blobs are named after; delete the damaged ones."""
    wanted = filter_repo_objects(_names(folder), allow_patterns=list(patterns))
    damaged = [name for name in wanted if _is_damaged(folder / name)]
    for name in damaged:
        link = folder / name
        for path in (link.resolve(), link.parent / link.readlink(), link):
            path.unlink(missing_ok=True)
    if damaged:
        raise ModelError(
            f"Damaged in the download from {repo}: {', '.join(damaged)} (not the hub's checksum)",
            "it is deleted; run the same command again, and it is downloaded anew",
            trouble="hub",
        )


def _is_damaged(link: Path) -> bool:
    checksum = link.readlink().name if link.is_symlink() else ""
    if not CHECKSUM.fullmatch(checksum):
        return False
    git_header = b"blob %d\0" % link.stat().st_size
    digest = hashlib.sha256() if len(checksum) == 64 else hashlib.sha1(git_header, usedforsecurity=False)
    with link.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest() != checksum
