"""Servers on loopback that speak to the clients of Google and Azure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite, by its documentation."""


def azurite() -> str:
    """The program; empty where it is not installed."""
    return shutil.which("azurite-blob", path=os.environ.get("AZURITE", os.environ["PATH"])) or ""


@contextmanager
def azure(scratch: Path) -> Iterator[dict[str, str]]:
    """Azurite with the container `bucket`; the variables by which clients find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [azurite(), "--blobPort", str(port), "--location", scratch, "--silent"]
    process = subprocess.Popen([*words, "--disableTelemetry"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                _create_container(port)
                break
            except OSError:
                time.sleep(0.1)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        process.terminate()
        process.wait()


def _create_container(port: int) -> None:
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/bucket", "restype:container"]
    signed = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("PUT", f"/{ACCOUNT}/bucket?restype=container", headers=headers)
        assert connection.getresponse().status == 201


@contextmanager
def google(scratch: Path) -> Iterator[dict[str, str]]:
    """A stub of the XML API of Google Cloud Storage; the variable by which clients find it.

    It does what the reference of the API says of GET, HEAD, PUT, DELETE, lists and preconditions.
    """
    objects: dict[str, tuple[bytes, int]] = {}
    generations, lock = itertools.count(1), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                there = objects.get(self.key, (b"", 0))[1]
                wanted = self.headers.get("x-goog-if-generation-match")
                if wanted is not None and int(wanted) != there:
                    return self.answer(412)
                objects[self.key] = data, next(generations)
                return self.answer(200, headers=self.facts())

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query:
                return self.answer(200, listing(query.get("prefix", [""])[0]))
            with lock:
                if self.key not in objects:
                    return self.answer(404)
                facts, data = self.facts(), objects[self.key][0]
            if self.headers.get("If-Match", facts["ETag"]) != facts["ETag"]:
                return self.answer(412)
            return self.answer(200, data, facts)

        do_HEAD = do_GET  # noqa: N815

        def do_DELETE(self) -> None:
            with lock:
                self.answer(204 if objects.pop(self.key, None) else 404)

        @property
        def key(self) -> str:
            return unquote(urlsplit(self.path).path).partition("/bucket/")[2]

        def facts(self) -> dict[str, str]:
            generation = objects[self.key][1]
            return {
                "ETag": f'"tag{generation}"',
                "x-goog-generation": str(generation),
                "Last-Modified": formatdate(1.7e9 + generation, usegmt=True),
            }

        def answer(
            self, status: int, data: bytes = b"", headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    def listing(prefix: str) -> bytes:
        with lock:
            rows = [
                f"<Contents><Key>{escape(key)}</Key><Generation>{number}</Generation>"
                f"<LastModified>2026-01-01T00:00:{number % 60:02d}.000Z</LastModified>"
                f'<ETag>"tag{number}"</ETag><Size>{len(data)}</Size></Contents>'
                for key, (data, number) in sorted(objects.items())
                if key.startswith(prefix)
            ]
        return f"<ListBucketResult>{''.join(rows)}</ListBucketResult>".encode()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    account = {
        "gcs_base_url": f"http://127.0.0.1:{server.server_address[1]}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (scratch / "account.json").write_text(json.dumps(account))
    try:
        yield {"GOOGLE_SERVICE_ACCOUNT": str(scratch / "account.json")}
    finally:
        server.shutdown()
        server.server_close()
