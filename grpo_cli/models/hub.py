"""Fetch a model's files from the Hugging Face hub, into the hub library's own cache.

    repository_files("karpathy/nanochat-d32")  # ["README.md", "meta_000650.json", "model_000650.pt", …]
    folder = fetch("karpathy/nanochat-d32", ["model_*.pt"], on_progress=show, check=True)
    folder / "model_000650.pt"                 # a link into the cache

The cache is huggingface_hub's, shared with every other program. But that library deletes the file of a failed
download (its issue 4196), and gigabytes would start again. So files are received here: each
grows as `blobs/<checksum>.incomplete`, which the next call resumes, and is renamed when complete.
`snapshot_download` then finds all files and only links them.
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

Progress = Callable[[int, int], None]  # bytes done (including earlier calls), total bytes

WAITS = (1.0, 2.0, 4.0)  # seconds before each retry of a transfer that makes no progress
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 of a small file, sha256 of a large one


def no_progress(_done: int, _total: int) -> None:
    """Ignore the progress."""


def repository_files(repo: str) -> list[str]:
    """The names of a repository's files, sorted; if the hub is unreachable, those in the cache.

    Raises ModelError if the hub refuses, or is unreachable and the cache is empty.
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
    """The snapshot folder with the files that match a pattern; missing ones are downloaded.

    An interrupted transfer resumes in this call or the next. `check` compares every matching file with the
    hub's checksum. If the hub is unreachable, a complete cached copy is used.

    Raises ModelError if the hub refuses, for a network or disk failure, a pattern without a match and, with
    `check`, a damaged file, which is deleted.
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
    """The hub's metadata of a repository and its files, in one request without retries."""
    with _quiet():
        return HfApi().model_info(repo, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def _files(info: ModelInfo) -> list[RepoSibling]:
    return info.siblings or []


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _cached(repo: str, patterns: Sequence[str]) -> Path | None:
    """The cached snapshot folder, or None if it is known to lack a matching file."""
    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(patterns), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    some = any(filter_repo_objects(_names(folder), allow_patterns=list(patterns)))
    return folder if some or not patterns else None


def _download(repo: str, info: ModelInfo, patterns: Sequence[str], on_progress: Progress) -> Path:
    """Download missing files, then let the library link them."""
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
    """Silence the library's warnings: their causes raise errors or are handled."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class _Silent(tqdm):
    """A hidden progress bar for the library: it would disturb the caller's."""

    def __init__(self, *values: Any, **settings: Any) -> None:
        super().__init__(*values, **{**settings, "disable": True})


@dataclass(frozen=True)
class _Blob:
    """A file to receive: URL, destination and size."""

    repo: str
    url: str
    path: Path  # blobs/<checksum>
    size: int

    @property
    def partial(self) -> Path:
        """The partial download; it is in no snapshot, so nothing mistakes it for the file."""
        return self.path.with_name(f"{self.path.name}.incomplete")

    @property
    def received(self) -> int:
        """Number of bytes received so far."""
        return self.partial.stat().st_size


class _Tally:
    """Sum of the received bytes of all files, reported as they arrive."""

    def __init__(self, total: int, report: Progress) -> None:
        self.done, self.total, self.report = 0, total, report

    def add(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)


def _receive_missing(repo: str, info: ModelInfo, wanted: list[RepoSibling], on_progress: Progress) -> None:
    """Download the files that are not in the cache, one by one."""
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    locks = storage.parent / ".locks" / storage.name  # the library's own lock, so that other programs wait
    blobs = [blob for file in wanted if (blob := _missing_blob(repo, info, file, storage)) is not None]
    tally = _Tally(sum(blob.size for blob in blobs), on_progress)
    for blob in blobs:
        locks.mkdir(parents=True, exist_ok=True)
        blob.path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(locks / f"{blob.path.name}.lock"):
            if blob.path.exists():  # another process was faster
                tally.add(blob.size)
            else:
                _receive_all(blob, tally)
                blob.partial.replace(blob.path)


def _missing_blob(repo: str, info: ModelInfo, file: RepoSibling, storage: Path) -> _Blob | None:
    """The file to receive, or None if it is cached or left to `snapshot_download`.

    The latter applies to mirrors without checksums, and to files so large that only Xet serves them.
    """
    checksum = file.lfs.sha256 if file.lfs else file.blob_id
    if checksum is None or not CHECKSUM.fullmatch(checksum):  # it becomes a file name
        return None
    if file.size is None or file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return None
    path = storage / "blobs" / checksum
    if path.exists() or isinstance(try_to_load_from_cache(repo, file.rfilename, revision=info.sha), str):
        return None
    return _Blob(repo, hf_hub_url(repo, file.rfilename, revision=info.sha), path, file.size)


def _receive_all(blob: _Blob, tally: _Tally) -> None:
    """Receive until the file is complete. Only attempts without progress count as failures."""
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
    """Send one request for the missing part; keep what arrived if it fails."""
    start = blob.received if blob.received < blob.size else 0  # longer: not a part of this file
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
    """Compare files with the checksums in their blob names; delete damaged ones."""
    wanted = filter_repo_objects(_names(folder), allow_patterns=list(patterns))
    damaged = [name for name in wanted if _is_damaged(folder / name)]
    for name in damaged:
        link = folder / name
        for path in (link.resolve(), link.parent / link.readlink(), link):
            path.unlink(missing_ok=True)
    if damaged:
        raise ModelError(
            f"Damaged in the download from {repo}: {', '.join(damaged)} (not the hub's checksum)",
            "it was deleted; run the same command again to download it",
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
