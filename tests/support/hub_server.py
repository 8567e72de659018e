"""A Hugging Face hub on 127.0.0.1: real HTTP for tests of downloads, with faults to order.

    with HubServer({"karpathy/nanochat-d32": {"model_000650.pt": data, "README.md": b"# d32"}}) as server:
        server.cut["model_000650.pt"] = [1000]  # the first answer ends after 1000 bytes
        subprocess.run([...], env=server.environment(tmp_path))
    [request.range for request in server.requests if request.path.endswith("model_000650.pt")]

It answers what huggingface_hub 1 and 2 ask: a repository's description, its tree, and its files. As on the
real hub, a large file (here from 1000 bytes) has its sha256 for an ETag and lies on another host, to
which `resolve` sends on; a small one has git's sha1 of a blob.
"""

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

LARGE = 1000  # bytes from which a file is one of LFS
BLOCK = 1 << 20

Content = bytes | Path


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str  # without the query
    range: str | None
    token: str | None
    host: str  # "hub", or "storage" for the large files' bytes


@dataclass(frozen=True)
class File:
    """A file of a repository."""

    name: str
    content: Content
    size: int
    sha1: str  # of git's blob
    sha256: str

    @property
    def is_large(self) -> bool:
        return self.size >= LARGE

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.sha1

    def read(self, start: int, end: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start:end]
        with self.content.open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)


def _file(name: str, content: Content) -> File:
    data = content if isinstance(content, bytes) else content.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return File(name, content, len(data), blob, hashlib.sha256(data).hexdigest())


@dataclass
class HubServer:
    """The server, and the faults that it is to show; each can be set at any time."""

    repositories: Mapping[str, Mapping[str, Content]]
    status: dict[str, int] = field(
        default_factory=dict
    )  # repository: what every request for it gets (0: nothing special)
    gated: set[str] = field(default_factory=set)  # repositories whose files need an accepted licence
    private: set[str] = field(default_factory=set)  # repositories that only `token` may see
    token: str = "hf_good"
    cut: dict[str, list[int]] = field(default_factory=dict)  # file: the bytes of its first answers, then all
    damaged: set[str] = field(default_factory=set)  # files whose first byte comes wrong
    delay: float = 0.0  # seconds before each answer
    ranges: bool = True  # whether a range is honoured
    checksums: bool = True  # whether a repository's description tells them; some mirrors do not
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = {
            repository: {name: _file(name, content) for name, content in files.items()}
            for repository, files in self.repositories.items()
        }
        handlers = (type("Handler", (_Handler,), {"hub": self, "host": host}) for host in ("hub", "storage"))
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
        for server in self._servers:
            server.daemon_threads = True
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def commit(self, repository: str) -> str:
        """The repository's only commit: it follows from its files."""
        etags = "".join(f"{name} {file.etag}\n" for name, file in self.files[repository].items())
        return hashlib.sha1(etags.encode()).hexdigest()

    def transfers(self, name: str) -> list[Request]:
        """The requests for a file's bytes, without the redirections."""
        host = (
            "storage"
            if any(files[name].is_large for files in self.files.values() if name in files)
            else "hub"
        )
        wanted = (request for request in self.requests if request.method == "GET" and request.host == host)
        return [request for request in wanted if request.path.endswith(f"/{name}")]

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables of a process that has this hub, an empty cache in `folder`, and no other network."""
        kept = {name: value for name, value in os.environ.items() if not _decides_about_the_hub(name)}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Make it this process's hub, with an empty cache in `folder`.

        The library reads its variables when it is imported, so its constants are set instead.
        """
        use_endpoint(monkeypatch, self.endpoint, folder)


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str, folder: Path) -> None:
    """Make `endpoint` this process's hub: it is online, without a token, with an empty cache in `folder`."""
    for name in filter(_decides_about_the_hub, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    huggingface_hub.close_session()  # the client has read the proxies


def _decides_about_the_hub(name: str) -> bool:
    return name.startswith(("HF_", "HUGGING")) or name.upper().endswith("_PROXY")


class _Handler(BaseHTTPRequestHandler):
    """Answers one request after the other on a connection."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    host: str

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        bearer = self.headers.get("Authorization")
        self.token = bearer.removeprefix("Bearer ") if bearer else None
        request = Request(self.command, path, self.headers.get("Range"), self.token, self.host)
        self.hub.requests.append(request)
        time.sleep(self.hub.delay)
        is_api = path.startswith("/api/models/")
        name, _, rest = _split(path.removeprefix("/api/models/" if is_api else "/"))
        if not self._refuses(name, is_file=not is_api):
            self._describe(
                name, rest, self.hub.checksums and "blobs" in parse_qs(url.query)
            ) if is_api else self._file(name, rest)

    def _refuses(self, name: str, is_file: bool) -> bool:
        """Send the error that this request gets, if any."""
        hub = self.hub
        if self.host == "storage":  # signed addresses
            return False
        if status := hub.status.get(name):
            self._send(status)
        elif self.token not in (None, hub.token):
            self._send(401, error="Invalid credentials in Authorization header")
        elif name not in hub.files or (name in hub.private and self.token is None):
            if self.token is None:  # the real one does not tell either which it is
                self._send(401, error="Invalid username or password.")
            else:
                self._send(404, error="Repository not found", code="RepoNotFound")
        elif name in hub.gated and is_file:
            self._send(401 if self.token is None else 403, error="Access is restricted.", code="GatedRepo")
        else:
            return False
        return True

    def _describe(self, name: str, rest: str, with_blobs: bool) -> None:
        """`/api/models/NAME`, the same with `/revision/main`, and `/tree/COMMIT`."""
        files = self.hub.files[name].values()
        commit = self.hub.commit(name)
        kind, _, revision = rest.partition("/")
        if revision not in ("", "main", commit):
            self._send(404, error="Invalid rev id", code="RevisionNotFound")
        elif kind == "tree":
            self._send_json([_tree_entry(file) for file in files])
        else:
            siblings = [_sibling(file) if with_blobs else {"rfilename": file.name} for file in files]
            self._send_json(
                {"id": name, "modelId": name, "sha": commit, "private": False, "tags": []}
                | {"siblings": siblings}
            )

    def _file(self, name: str, rest: str) -> None:
        """`/NAME/resolve/REVISION/FILE`: its bytes, or where they are."""
        _, revision, file_name = (*rest.split("/", 2), "", "")[:3]
        commit = self.hub.commit(name)
        file = self.hub.files[name].get(file_name)
        headers = {"X-Repo-Commit": commit}
        if file is None or revision not in ("main", commit):
            self._send(404, headers, error="Entry not found", code="EntryNotFound")
        elif file.is_large and self.host == "hub":
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
            self._send(302, headers | {"Location": self.hub.storage + self.path})
        else:
            self._send_bytes(file, headers)

    def _send_bytes(self, file: File, headers: dict[str, str]) -> None:
        """The file, or its end from where a range starts; cut off if that is ordered."""
        start = 0
        asked = self.headers.get("Range")
        if asked and self.hub.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        self.send_response(206 if "Content-Range" in headers else 200)
        headers |= {
            "Content-Length": str(file.size - start),
            "ETag": f'"{file.etag}"',
            "Accept-Ranges": "bytes",
        }
        self._end_headers(headers)
        if self.command == "GET":
            cuts = self.hub.cut.get(file.name, [])
            self._write(file, start, min(start + cuts.pop(0), file.size) if cuts else file.size)

    def _write(self, file: File, start: int, end: int) -> None:
        for position in range(start, end, BLOCK):
            block = file.read(position, min(position + BLOCK, end))
            if position == 0 and file.name in self.hub.damaged:
                block = bytes([block[0] ^ 255]) + block[1:]
            try:
                self.wfile.write(block)
            except OSError:  # the client has gone
                break
        if end < file.size:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self._end_headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send(
        self, status: int, headers: Mapping[str, str] = {}, error: str | None = None, code: str | None = None
    ) -> None:
        """An answer without a body."""
        self.send_response(status)
        said = {"X-Error-Message": error, "X-Error-Code": code, "Content-Length": "0"}
        self._end_headers({**headers, **{name: value for name, value in said.items() if value is not None}})

    def _end_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _split(path: str) -> tuple[str, str, str]:
    """`owner/name/rest` in its parts: the repository, a slash, the rest."""
    owner, _, rest = path.partition("/")
    name, slash, rest = rest.partition("/")
    return f"{owner}/{name}", slash, rest


def _sibling(file: File) -> dict[str, Any]:
    """A file as `?blobs=true` describes it."""
    described = {"rfilename": file.name, "size": file.size, "blobId": file.sha1}
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return described | {"lfs": lfs} if file.is_large else described


def _tree_entry(file: File) -> dict[str, Any]:
    """A file as the tree lists it."""
    entry = {"type": "file", "path": file.name, "size": file.size, "oid": file.sha1}
    lfs = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return entry | {"lfs": lfs} if file.is_large else entry
