"""Fetching from a hub on this machine: files, progress, resumption, checksums, and each refusal's words."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from grpo_cli.errors import ModelError
from grpo_cli.models import hub
from grpo_cli.models.hub import fetch, missing_file, repository_files
from tests.hub_server import HubServer, use_endpoint

REPO = "karpathy/nanochat-d32"
LARGE = bytes(range(256)) * 1000  # 256,000 bytes
SMALL = b'{"step": 650}'
FILES = {
    "README.md": b"# d32",
    "meta_000650.json": SMALL,
    "model_000650.pt": LARGE,
    "token/tokenizer.pkl": b"pkl",
}
WANTED = ["model_*.pt", "meta_*.json"]
WANTED_NAMES = ["meta_000650.json", "model_000650.pt"]
SIZE = len(LARGE) + len(SMALL)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with one repository; this process uses it, with an empty cache in tmp_path."""
    monkeypatch.setattr(hub, "WAITS", (0.0, 0.0))
    with HubServer({REPO: FILES}) as running:
        running.use(monkeypatch, tmp_path)
        yield running


@pytest.fixture
def with_token(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", server.token)
    return server


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(repo: str = REPO, check: bool = False) -> tuple[str, str]:
    """Message and hint of the error that a fetch ends with."""
    with pytest.raises(ModelError) as error:
        fetch(repo, WANTED, check=check)
    return error.value.message, error.value.hint


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


@pytest.mark.usefixtures("server")
def test_offline_and_not_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    expected = (
        f"{REPO} is not in the local cache, and HF_HUB_OFFLINE=1 forbids downloading it",
        f"connect once and `HF_HUB_OFFLINE=0 hf download {REPO}`, or give the path of a local folder",
    )
    assert refused() == expected
    with pytest.raises(ModelError) as error:
        repository_files(REPO)
    assert (error.value.message, error.value.hint) == expected


@pytest.mark.usefixtures("server")
def test_offline_and_only_partly_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(REPO, ["README.md"])
    go_offline(monkeypatch)
    assert refused()[0] == f"{REPO} is not in the local cache, and HF_HUB_OFFLINE=1 forbids downloading it"


def test_a_hub_that_nobody_answers_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        use_endpoint(monkeypatch, endpoint, tmp_path)
        message, hint = refused()
    refusal = os.strerror(errno.ECONNREFUSED)
    assert message == (
        f"The hub {endpoint} cannot be reached ([Errno {errno.ECONNREFUSED}] {refusal}), "
        f"and {REPO} is not in the local cache"
    )
    assert hint == f"check the network with `curl -I {endpoint}`, or give the path of a local folder"


def test_a_hub_that_does_not_answer_in_time(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    server.delay = 0.5
    assert refused() == (
        f"The hub {server.endpoint} did not answer within 0.2 s, and {REPO} is not in the local cache",
        "run the same command again, on a slow connection after `export HF_HUB_ETAG_TIMEOUT=60`, "
        "or give the path of a local folder",
    )


def test_a_transfer_that_stalls(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    server.delay = 0.3
    assert refused() == (
        f"The download from {REPO} broke off at 0 of 13 bytes: no data for 0.1 s",
        "run the same command again: the download continues where it stopped; "
        "on a slow connection, first `export HF_HUB_DOWNLOAD_TIMEOUT=60`",
    )


PRIVATE_OR_MISSPELT = "check the spelling; for a private repository `hf auth login` first"
RENEW = "`hf auth login` again; a token in HF_TOKEN comes first: renew it or `unset HF_TOKEN`"


@pytest.mark.usefixtures("with_token")
def test_a_repository_that_does_not_exist() -> None:
    assert refused("karpathy/nanochat-d99") == (
        "Model not found on the hub: karpathy/nanochat-d99",
        "check the spelling; for a private repository `hf auth login` with an account that has access",
    )


def test_a_repository_that_is_private_or_does_not_exist(server: HubServer) -> None:
    server.private.add(REPO)
    for repo in (REPO, "karpathy/nanochat-d99"):
        message = f"Model not found on the hub: {repo} is private or misspelled (401)"
        assert refused(repo) == (message, PRIVATE_OR_MISSPELT)


@pytest.mark.usefixtures("server")
def test_a_token_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert refused() == (f"The hub refuses {REPO}: your token is wrong or expired (401)", RENEW)


def test_a_token_that_may_not(with_token: HubServer) -> None:
    with_token.status[REPO] = 403
    assert refused() == (f"The hub refuses {REPO}: your token has no access to it (403)", RENEW)


@pytest.mark.parametrize("token", ["", "hf_good"])
def test_a_licence_that_is_not_accepted(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.gated.add(REPO)
    assert refused() == (
        f"The repository {REPO} requires accepting its license",
        f"accept it on the model's page {server.endpoint}/{REPO}, then `hf auth login` with the same account",
    )


def test_too_many_requests(server: HubServer) -> None:
    server.status[REPO] = 429
    assert refused() == (
        f"The hub accepts no more requests from here for now, so {REPO} was not downloaded (429)",
        "wait five minutes and run the same command again; `hf auth login` raises the limit",
    )


@pytest.mark.parametrize(("status", "phrase"), [(500, "Internal Server Error"), (503, "Service Unavailable")])
def test_a_hub_that_fails(server: HubServer, status: int, phrase: str) -> None:
    server.status[REPO] = status
    assert refused() == (
        f"The hub failed for {REPO}: {status} {phrase}",
        "wait a few minutes and run the same command again; https://status.huggingface.co shows its state",
    )


def test_a_hub_that_fails_in_mid_download(server: HubServer) -> None:
    server.cut["model_000650.pt"] = [100_000]

    def fail_later(done: int, _total: int) -> None:
        server.status[REPO] = 503 if done > 50_000 else 0

    with pytest.raises(ModelError) as error:
        fetch(REPO, WANTED, fail_later)
    assert error.value.message == f"The hub failed for {REPO}: 503 Service Unavailable"
    assert len([request for request in server.requests if request.path.endswith(".pt")]) == 5


def test_any_other_refusal(server: HubServer) -> None:
    server.status[REPO] = 451
    message = f"The hub refuses {REPO}: 451 Unavailable For Legal Reasons"
    assert refused() == (message, f"see the model's page {server.endpoint}/{REPO}")


@pytest.mark.parametrize("repo", ["karpathy/nano chat", "karpathy/-d32", "a/b/c"])
def test_a_name_that_no_repository_can_have(server: HubServer, repo: str) -> None:
    hint = "a hub repository is `owner/name`: letters, digits, `-`, `_` and `.`, 96 characters at most"
    assert refused(repo) == (f"Model not found: {repo}", hint)
    assert server.requests == []


def test_a_server_that_is_no_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.status["api/models"] = 200  # so under this root every address gets an empty page
    endpoint = f"{server.endpoint}/api/models"
    use_endpoint(monkeypatch, endpoint, tmp_path)
    message, hint = refused()
    assert message.startswith(f"The server at {endpoint}, asked for {REPO}, is not the hub: ")
    assert hint == "log in to the network if it asks for that, or `unset HF_ENDPOINT`"


@pytest.mark.usefixtures("server")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "_receive", no_space)
    assert refused() == (
        f"The disk is full: {REPO} does not fit into {tmp_path}/hub",
        "free some space and run the same command again: the download continues where it stopped; "
        "or `export HF_HUB_CACHE=/path/on/another/disk`",
    )


@pytest.mark.usefixtures("server")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where the folder should be")
    message, hint = refused()
    assert message.startswith(f"Failed to write {REPO} to {tmp_path}/hub: [Errno {errno.ENOTDIR}] ")
    assert hint == "make the folder writable, or `export HF_HUB_CACHE=/path/of/another/folder`"


@pytest.mark.usefixtures("server")
def test_patterns_that_no_file_matches() -> None:
    with pytest.raises(ModelError) as error:
        fetch(REPO, ["*.safetensors", "*.gguf"])
    assert error.value.message == (
        f"The repository {REPO} has no *.safetensors or *.gguf "
        "(found: README.md, meta_000650.json, model_000650.pt, token/tokenizer.pkl)"
    )


def test_a_missing_file_is_told_with_those_that_are_there() -> None:
    error = missing_file("a/b", "config.json", [f"{i}.txt" for i in range(10)])
    assert error.message == (
        "The repository a/b has no config.json "
        "(found: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt, 7.txt and 2 more)"
    )
    assert error.hint == (
        "name another repository; this one's files are at https://huggingface.co/a/b/tree/main"
    )
    assert missing_file("a/b", "x", []).message == "The repository a/b has no x (found: nothing)"


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
