"""Fixtures of models: a hub on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_cli.models import hub
from tests.support.hub_server import HubServer
from tests.support.nanochat_repository import FILES, REPO


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
