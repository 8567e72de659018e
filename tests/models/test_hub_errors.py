"""Refusals of a hub, the network or the disk: each one's message and hint."""

import errno
import os
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from grpo_cli.errors import ModelError
from grpo_cli.models import hub
from grpo_cli.models.hub import fetch, missing_file, repository_files
from tests.support.hub_server import HubServer, use_endpoint
from tests.support.nanochat_repository import (
    REPO,
    WANTED,
    go_offline,
    refused,
)


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
