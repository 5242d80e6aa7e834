"""Load of `leak serve`: `python tests/benchmarks/serve_load.py RUN IMAGE [--clients 50]`.

Starts the server on a free port of this machine. Each client sends an image, waits for the
answer, and sends it again; after a 429 it waits as long as the server asks for. Prints counts by
status, percentiles of the latency, and the server's resident memory at ten moments. Fails where a
request has another answer than 200 or 429, or none.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BORDER = "border"


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        statuses: of the answers; "lost" without one.
        seconds: of each answer 200, from its sending.
        answers: distinct answers to the image.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("image", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    command = [sys.executable, "-m", "cli", "serve", "--run", options.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127.0.0.1:(\d+)", server.stdout.readline())
            assert found, "the server did not start"
            seen, memory = load(int(found[1]), server.pid, options)
        finally:
            server.terminate()
    print(json.dumps(summary(seen, memory, options.seconds), indent=1))
    sys.exit(bool(set(seen.statuses) - {"200", "429"}) or len(seen.answers) != 1)


def load(port: int, pid: int, options: argparse.Namespace) -> tuple[Seen, list[float]]:
    """Run the clients, and note the memory of the server in MB."""
    head = f'--{BORDER}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head.encode() + options.image.read_bytes() + f"\r\n--{BORDER}--\r\n".encode()
    seen, memory = Seen(), []
    send(port, body, Seen())  # the first answer also loads what is loaded once
    end = time.monotonic() + options.seconds
    clients = [
        threading.Thread(target=client, args=(port, body, seen, end))
        for _ in range(options.clients)
    ]
    for one in clients:
        one.start()
    while (left := end - time.monotonic()) > 0:
        memory.append(resident(pid))
        time.sleep(min(left, options.seconds / 9))
    for one in clients:
        one.join()
    return seen, [*memory, resident(pid)]


def client(port: int, body: bytes, seen: Seen, end: float) -> None:
    """Send requests until the end."""
    while time.monotonic() < end:
        wait = send(port, body, seen)
        time.sleep(min(wait, max(0.0, end - time.monotonic())))


def send(port: int, body: bytes, seen: Seen) -> float:
    """Send one request, and return how long to wait before the next."""
    start = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    kind = {"Content-Type": f"multipart/form-data; boundary={BORDER}"}
    try:
        connection.request("POST", "/v1/score", body, kind)
        response = connection.getresponse()
        content, status = response.read(), str(response.status)
    except (OSError, http.client.HTTPException):
        status = "lost"
    finally:
        connection.close()
    with seen.lock:
        seen.statuses[status] += 1
        if status == "200":
            seen.seconds.append(time.monotonic() - start)
            seen.answers.add(json.dumps(json.loads(content)["images"]))
    return float(response.headers.get("Retry-After", 0)) if status == "429" else 0.0


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


def summary(seen: Seen, memory: list[float], seconds: float) -> dict[str, object]:
    """The figures of docs/PERFORMANCE.md."""
    places = (50, 90, 95, 99, 100)
    values = np.percentile(seen.seconds or [np.nan], places)
    return {
        "statuses": dict(seen.statuses),
        "answered_per_second": round(len(seen.seconds) / seconds, 2),
        "latency_s": {f"p{p}": round(float(v), 3) for p, v in zip(places, values, strict=True)},
        "distinct_answers": len(seen.answers),
        "memory_mb": [round(value) for value in memory],
    }


if __name__ == "__main__":
    main()
