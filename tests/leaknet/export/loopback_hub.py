"""A hub on this machine: the endpoints that huggingface_hub calls to push and fetch a model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class LoopbackHub:
    """State of the hub.

    Attributes:
        url: endpoint.
        repositories: files of each, by hub id.
        requests: method and path of each request.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def commit(self, repository: str) -> str:
        """Hash of the newest version."""
        content = sorted(self.repositories[repository].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A hub that answers until the block ends."""
    hub = LoopbackHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _get(hub, self)

        def do_HEAD(self) -> None:
            _get(hub, self)

        def do_POST(self) -> None:
            _post(hub, self)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, body: bytes, code: int = 200, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _json(handler: BaseHTTPRequestHandler, content: Any, code: int = 200) -> None:
    _answer(handler, json.dumps(content).encode(), code, Content_Type="application/json")


def _missing(handler: BaseHTTPRequestHandler, code: str) -> None:
    _answer(handler, b"{}", 404, X_Error_Code=code)


def _get(hub: LoopbackHub, handler: BaseHTTPRequestHandler) -> None:
    path = unquote(urlsplit(handler.path).path)
    hub.requests.append(f"{handler.command} {path}")
    words = path.strip("/").split("/")
    if words[:2] == ["api", "models"]:
        repository, rest = "/".join(words[2:4]), words[4:]
        if repository not in hub.repositories:
            _missing(handler, "RepoNotFound")
            return
        files = hub.repositories[repository]
        if rest[:1] == ["tree"]:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in files.items()
            ]
            _json(handler, rows)
            return
        siblings = [{"rfilename": name} for name in files]
        sha = hub.commit(repository)
        _json(handler, {"id": repository, "modelId": repository, "sha": sha, "siblings": siblings})
        return
    repository, name = "/".join(words[:2]), "/".join(words[4:])
    data = hub.repositories.get(repository, {}).get(name)
    if data is None:
        _missing(handler, "EntryNotFound")
        return
    _answer(handler, data, ETag=f'"{_oid(data)}"', X_Repo_Commit=hub.commit(repository))


def _post(hub: LoopbackHub, handler: BaseHTTPRequestHandler) -> None:
    path = unquote(urlsplit(handler.path).path)
    hub.requests.append(f"POST {path}")
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    words = path.strip("/").split("/")
    if path == "/api/repos/create":
        given = json.loads(body)
        name = f"{given.get('organization') or 'me'}/{given['name']}"
        hub.repositories.setdefault(name, {})
        _json(handler, {"url": f"{hub.url}/{name}", "name": name})
    elif path == "/api/validate-yaml":
        _json(handler, {"errors": [], "warnings": []})
    elif "preupload" in words:
        files = [
            {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
            for one in json.loads(body)["files"]
        ]
        _json(handler, {"files": files})
    else:
        repository = "/".join(words[2:4])
        for line in body.splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                data = base64.b64decode(one["value"]["content"])
                hub.repositories[repository][one["value"]["path"]] = data
        sha = hub.commit(repository)
        url = f"{hub.url}/{repository}/commit/{sha}"
        _json(handler, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
