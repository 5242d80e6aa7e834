"""An S3 server on loopback (moto), and a proxy before it that fails on purpose."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from moto.server import ThreadedMotoServer

ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "key": (403, "InvalidAccessKeyId", "The Access Key Id does not exist in our records."),
    "secret": (403, "SignatureDoesNotMatch", "The signature does not match."),
    "region": (301, "PermanentRedirect", "Address the bucket by the specified endpoint."),
    "signed": (400, "AuthorizationHeaderMalformed", "The region 'a' is wrong; expecting 'b'"),
}
"""By the kind of a fault the status, code and message that S3 answers."""


@dataclass
class Faults:
    """What the proxy does with requests.

    Attributes:
        kind: of `ERRORS`; `slow`, `drop`, or `mixed` for 500s and these two; empty for none.
        times: how many requests fail.
        matches: which requests may fail, by method and path.
        seen: method and path of each request.
    """

    kind: str = ""
    times: int = 0
    matches: Callable[[str, str], bool] = lambda method, path: True
    seen: list[tuple[str, str]] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)

    def set(
        self,
        kind: str,
        times: int = 1,
        matches: Callable[[str, str], bool] = lambda method, path: True,
    ) -> None:
        self.kind, self.times, self.matches = kind, times, matches

    def take(self, method: str, path: str) -> str:
        with self._lock:
            self.seen.append((method, path))
            if self.kind and self.times > 0 and self.matches(method, path):
                self.times -= 1
                return (
                    ("500", "slow", "drop")[self.times % 3] if self.kind == "mixed" else self.kind
                )
        return ""


@contextmanager
def serving() -> Iterator[tuple[str, Faults]]:
    """URL of the proxy, and its faults; the bucket is called `bucket`."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    faults = Faults()
    host, port = moto.get_host_and_port()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            fault = faults.take(self.command, self.path)
            if fault == "slow":
                time.sleep(0.3)
            if fault in ERRORS:
                status, code, words = ERRORS[fault]
                text = f"<Error><Code>{code}</Code><Message>{words}</Message></Error>"
                return self.answer(status, {"Content-Type": "application/xml"}, text.encode())
            connection = http.client.HTTPConnection(host, port)
            connection.request(self.command, self.path, body, dict(self.headers))
            found = connection.getresponse()
            data, headers = found.read(), dict(found.getheaders())
            connection.close()
            return self.answer(found.status, headers, data, cut=fault == "drop")

        def answer(
            self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        connection = http.client.HTTPConnection(host, port)
        key = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
        connection.request("PUT", "/bucket", headers={"Authorization": key})
        assert connection.getresponse().status == 200
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()
        moto.stop()
