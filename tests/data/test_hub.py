"""A dataset of the hub without a network: one short request, no noise, one message, or the cache."""

import socket
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import close_session, constants

from grpo_cli.data import hub
from grpo_cli.errors import DataError


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Both libraries would ask the hub; they find an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    close_session()  # else it keeps that it was offline
    yield
    close_session()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A resolver that knows no name; the names it was asked for."""
    names: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> None:
        names.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


def refusal(name: str) -> DataError:
    with pytest.raises(DataError) as error:
        hub.read(name, "", "train")
    return error.value


def test_no_network_is_told_after_one_request(asked: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    error = refusal("owner/x")
    assert asked == ["huggingface.co"]
    assert error.message == (
        "Dataset not reachable: owner/x is neither on this disk nor in the local cache, and the hub "
        "https://huggingface.co cannot be reached ([Errno -2] Name or service not known)"
    )
    assert error.hint == f"check the network with `curl -I https://huggingface.co`, or {hub.LOCAL_COPY}"
    assert capfd.readouterr() == ("", "")


def test_a_server_that_never_answers_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        error = refusal("owner/x")
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):  # there was no second one
            server.accept()
    assert f"the hub {endpoint} cannot be reached (" in error.message


def test_what_was_downloaded_before_is_read_without_the_network(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": "1 + 1", "answer": "2"}]

    def load_dataset(*_: object, **__: object) -> datasets.Dataset:
        assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [row.values for row in hub.read("owner/x", "", "train")] == rows
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE
    assert asked == ["huggingface.co"]


@pytest.mark.parametrize("name", ["./dta", "dta.jsonl", "a/b/c", "~/dta", "arithmatic"])
def test_a_slip_in_a_path_asks_nobody(name: str, asked: list[str]) -> None:
    from grpo_cli.data.load import check_dataset

    with pytest.raises(DataError, match="Dataset not found"):
        check_dataset(name)
    assert asked == []
