"""Run `leak` commands in forks of one process that has imported everything; a program of its own.

A fork costs milliseconds where a new process imports torch for seconds. One JSON request a line on
stdin: `cwd`, `commands` (a list of `argv`, which run at once), `signal` (a number, or null) and
`after` (seconds until it is sent to the first). One JSON answer a line on stdout, a list of `code`
(exit status, negative for a signal), `out`, `err`, `seconds`, `cpu` (seconds) and `mebibytes`
(peak of memory above that of this process).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

# Before any parallel region: threads do not survive a fork.
torch.set_num_threads(1)

import cli  # noqa: E402
import leakcache  # noqa: E402
import leaknet  # noqa: E402


def import_everything() -> None:
    """Import every module of the product, and what its functions import later."""
    for package in (leakcache, leaknet):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def run(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Run commands at once, each in a fork; the first gets a signal where one is asked for."""
    running = [Running(argv, request["cwd"]) for argv in request["commands"]]
    if request["signal"] is not None:
        running[0].signal(request["signal"], request["after"])
    return [one.answer() for one in running]


class Running:
    """A command in a fork."""

    def __init__(self, argv: list[str], cwd: str) -> None:
        self._files = [tempfile.TemporaryFile() for _ in ("out", "err")]  # noqa: SIM115
        self._start, self._ended = time.perf_counter(), None
        self._child = os.fork()
        if self._child == 0:
            for number, file in enumerate(self._files, start=1):
                os.dup2(file.fileno(), number)
            os._exit(command(argv, cwd))

    def signal(self, number: int, after: float) -> None:
        """Send a signal after so many seconds, unless the command ends before."""
        while time.perf_counter() < self._start + after and not self._wait(os.WNOHANG):
            time.sleep(0.002)
        if not self._ended:
            os.kill(self._child, number)

    def answer(self) -> dict[str, Any]:
        """What the command did, once it has ended."""
        self._wait(0)
        assert self._ended
        status, used, seconds = self._ended
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": texts[0],
            "err": texts[1],
            "seconds": seconds,
            "cpu": used.ru_utime + used.ru_stime,
            "mebibytes": (used.ru_maxrss - own) / 1024,
        }

    def _wait(self, options: int) -> bool:
        if not self._ended:
            child, status, used = os.wait4(self._child, options)
            if child:
                self._ended = status, used, time.perf_counter() - self._start
        return self._ended is not None


def command(argv: list[str], cwd: str) -> int:
    """The exit status of one command; runs in the fork."""
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    sys.argv = ["leak", *argv]
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        cli.main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main() -> None:
    """Answer requests until stdin ends."""
    import_everything()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page it touches
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps({"ready": str(Path(cli.__file__))}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
