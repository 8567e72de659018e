"""Fetching from a hub on this machine: files, progress, resumption, checksums, and the cache."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from grpo_cli.models.hub import fetch, repository_files
from tests.support.hub_server import HubServer
from tests.support.nanochat_repository import (
    FILES,
    LARGE,
    REPO,
    SIZE,
    SMALL,
    WANTED,
    WANTED_NAMES,
    go_offline,
    refused,
)


def blobs(tmp_path: Path) -> dict[str, int]:
    """The names and sizes of what lies in the repository's blobs folder."""
    folder = tmp_path / "hub/models--karpathy--nanochat-d32/blobs"
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_only_the_files_that_match_are_fetched(server: HubServer, tmp_path: Path) -> None:
    folder = fetch(REPO, [*WANTED, "tokenizer.pkl"])
    assert folder == tmp_path / "hub/models--karpathy--nanochat-d32/snapshots" / server.commit(REPO)
    assert sorted(path.name for path in folder.rglob("*")) == WANTED_NAMES
    assert (folder / "model_000650.pt").read_bytes() == LARGE
    assert (folder / "meta_000650.json").read_bytes() == SMALL
    assert set(blobs(tmp_path)) == {
        hashlib.sha256(LARGE).hexdigest(),
        hashlib.sha1(b"blob 13\0" + SMALL).hexdigest(),
    }


@pytest.mark.usefixtures("server")
def test_a_file_in_a_folder_keeps_its_folder() -> None:
    assert (fetch(REPO, ["*.pkl"]) / "token/tokenizer.pkl").read_bytes() == b"pkl"


def test_empty_and_equal_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"empty.txt": b"", "one.json": SMALL, "two.json": SMALL}
    seen: list[tuple[int, int]] = []
    with HubServer({"a/b": files}) as server:
        server.use(monkeypatch, tmp_path)
        folder = fetch("a/b", ["*"], lambda done, total: seen.append((done, total)), check=True)
        assert len(server.transfers("one.json") + server.transfers("two.json")) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert seen[-1] == (26, 26)


@pytest.mark.usefixtures("server")
def test_progress_counts_the_bytes_of_all_files(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    fetch(REPO, WANTED, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, SIZE)
    assert seen[-1] == (SIZE, SIZE)
    assert sorted(seen) == seen
    assert {total for _, total in seen} == {SIZE}
    assert capfd.readouterr() == ("", "")


def test_a_second_fetch_transfers_nothing(server: HubServer) -> None:
    first = fetch(REPO, WANTED)
    server.requests.clear()
    seen: list[tuple[int, int]] = []
    assert fetch(REPO, WANTED, lambda done, total: seen.append((done, total)), check=True) == first
    assert seen == []
    assert server.transfers("model_000650.pt") + server.transfers("meta_000650.json") == []


@pytest.mark.usefixtures("server")
def test_the_library_finds_what_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(REPO, WANTED)
    go_offline(monkeypatch)
    assert huggingface_hub.hf_hub_download(REPO, "model_000650.pt") == str(folder / "model_000650.pt")


def test_a_mirror_that_tells_no_checksums_is_left_to_the_library(
    server: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.checksums = False
    assert (fetch(REPO, WANTED, check=True) / "model_000650.pt").read_bytes() == LARGE
    assert capfd.readouterr() == ("", "")


def test_the_token_goes_to_the_hub_and_not_to_the_storage(with_token: HubServer) -> None:
    with_token.private.add(REPO)
    fetch(REPO, WANTED)
    sent = {request.host: request.token for request in with_token.requests if REPO in request.path}
    assert sent == {"hub": "hf_good", "storage": None}


def test_a_connection_cut_in_mid_file_is_taken_up_in_the_same_call(server: HubServer) -> None:
    server.cut["model_000650.pt"] = [100_000]
    seen: list[tuple[int, int]] = []
    folder = fetch(REPO, WANTED, lambda done, total: seen.append((done, total)), check=True)
    assert (folder / "model_000650.pt").read_bytes() == LARGE
    assert [request.range for request in server.transfers("model_000650.pt")] == [None, "bytes=100000-"]
    assert sorted(seen) == seen
    assert seen[-1] == (SIZE, SIZE)


def test_tries_that_bring_something_do_not_count_towards_giving_up(server: HubServer) -> None:
    server.cut["model_000650.pt"] = [10_000] * 20
    fetch(REPO, WANTED, check=True)
    asked = [request.range for request in server.transfers("model_000650.pt")]
    assert asked == [None, *(f"bytes={10_000 * i}-" for i in range(1, 21))]


def test_the_next_call_goes_on_where_a_failed_one_stopped(server: HubServer, tmp_path: Path) -> None:
    server.cut["model_000650.pt"] = [100_000, 0, 0, 0]
    message, hint = refused()
    start = f"The download from {REPO} broke off at 100,000 of 256,000 bytes: "
    assert message.startswith(start)
    assert "peer closed connection without sending complete message body" in message
    assert hint == "run the same command again: the download continues where it stopped"
    partial = f"{hashlib.sha256(LARGE).hexdigest()}.incomplete"
    assert blobs(tmp_path)[partial] == 100_000

    server.requests.clear()
    seen: list[tuple[int, int]] = []
    folder = fetch(REPO, WANTED, lambda done, total: seen.append((done, total)), check=True)
    assert (folder / "model_000650.pt").read_bytes() == LARGE
    assert [request.range for request in server.transfers("model_000650.pt")] == ["bytes=100000-"]
    assert (seen[0], seen[-1]) == ((100_000, 256_000), (256_000, 256_000))
    assert partial not in blobs(tmp_path)


def test_what_an_interruption_left_is_used(server: HubServer) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(REPO, ["model_*.pt"], interrupt)
    server.requests.clear()
    fetch(REPO, WANTED, check=True)
    (again,) = server.transfers("model_000650.pt")
    assert again.range is not None
    assert int(again.range.removeprefix("bytes=").removesuffix("-")) > 100_000


def test_a_server_without_ranges_starts_anew(server: HubServer) -> None:
    server.ranges = False
    server.cut["model_000650.pt"] = [100_000]
    seen: list[int] = []
    folder = fetch(REPO, ["model_*.pt"], lambda done, _total: seen.append(done), check=True)
    assert (folder / "model_000650.pt").read_bytes() == LARGE
    assert seen[-1] == 256_000
    assert max(seen) == 256_000


def test_a_partial_file_that_is_too_long_is_not_built_on(server: HubServer, tmp_path: Path) -> None:
    server.cut["model_000650.pt"] = [100_000, 0, 0, 0]
    refused()
    (partial,) = (tmp_path / "hub").rglob("*.incomplete")
    partial.write_bytes(b"\0" * 300_000)
    folder = fetch(REPO, WANTED, check=True)
    assert (folder / "model_000650.pt").read_bytes() == LARGE


@pytest.mark.parametrize("name", ["model_000650.pt", "meta_000650.json"])
def test_a_damaged_file_is_found_deleted_and_fetched_anew(server: HubServer, name: str) -> None:
    server.damaged.add(name)
    folder = fetch(REPO, WANTED)  # nobody asked for the check
    assert refused(check=True) == (
        f"Damaged in the download from {REPO}: {name} (not the hub's checksum)",
        "it was deleted; run the same command again to download it",
    )
    assert [path.name for path in folder.iterdir()] == [other for other in WANTED_NAMES if other != name]
    server.damaged.clear()
    server.requests.clear()
    assert (fetch(REPO, WANTED, check=True) / name).read_bytes() == FILES[name]
    assert len(server.transfers("model_000650.pt") + server.transfers("meta_000650.json")) == 1


@pytest.mark.usefixtures("server")
def test_a_file_damaged_on_the_disk_is_found_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(REPO, WANTED)
    with (folder / "model_000650.pt").open("r+b") as stream:
        stream.write(b"x")
    go_offline(monkeypatch)
    assert refused(check=True)[0] == (
        f"Damaged in the download from {REPO}: model_000650.pt (not the hub's checksum)"
    )


@pytest.mark.usefixtures("server")
def test_a_blob_that_is_not_named_after_a_checksum_is_not_checked() -> None:
    folder = fetch(REPO, WANTED)
    link = folder / "meta_000650.json"
    blob = link.resolve().rename(link.resolve().with_name("another-etag"))
    link.unlink()
    link.symlink_to(Path(os.path.relpath(blob, folder)))
    blob.write_bytes(b"changed")
    assert fetch(REPO, WANTED, check=True) == folder


@pytest.mark.usefixtures("server")
def test_files_are_listed_in_order() -> None:
    assert repository_files(REPO) == [
        "README.md",
        "meta_000650.json",
        "model_000650.pt",
        "token/tokenizer.pkl",
    ]


def test_offline_the_cache_is_the_repository(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(REPO, [*WANTED, "*.pkl"])
    go_offline(monkeypatch)
    server.requests.clear()
    assert repository_files(REPO) == ["meta_000650.json", "model_000650.pt", "token/tokenizer.pkl"]
    assert fetch(REPO, WANTED, check=True) == folder
    assert server.requests == []


def test_a_hub_that_is_down_does_not_matter_for_what_is_cached(server: HubServer) -> None:
    folder = fetch(REPO, WANTED)
    server.status[REPO] = 503
    assert fetch(REPO, WANTED) == folder
    assert repository_files(REPO) == WANTED_NAMES


SCRIPT = """
from grpo_cli.models.hub import fetch
print(fetch("karpathy/nanochat-d32", ["model_*.pt"], check=True))
"""


def test_another_process_with_the_environment_of_the_server(server: HubServer, tmp_path: Path) -> None:
    server.cut["model_000650.pt"] = [100_000]
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=server.environment(tmp_path), capture_output=True, text=True, check=True
    )
    folder = tmp_path / "hf/hub/models--karpathy--nanochat-d32/snapshots" / server.commit(REPO)
    assert (done.stdout, done.stderr) == (f"{folder}\n", "")
    assert (folder / "model_000650.pt").read_bytes() == LARGE
