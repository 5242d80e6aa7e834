"""Run `leak` commands in forks of one process that has imported everything; a program of its own.

A fork costs milliseconds where a new process imports torch for seconds. One JSON request a line on
stdin: `argv`, `cwd`, `signal` (a number, or null) and `after` (seconds until it is sent). One JSON
answer a line on stdout: `code` (exit status, negative for a signal), `out`, `err`, `seconds`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
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


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a fork, and send it a signal where one is asked for."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(command(request))
        status = _wait(child, request["signal"], request["after"])
        seconds = time.perf_counter() - start
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return {"code": status, "out": texts[0], "err": texts[1], "seconds": seconds}


def command(request: dict[str, Any]) -> int:
    """The exit status of one command; runs in the fork."""
    os.chdir(request["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    sys.argv = ["leak", *request["argv"]]
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


def _wait(child: int, number: int | None, after: float) -> int:
    """Exit status of the child, negative for a signal; sends `number` after so many seconds."""
    end = time.perf_counter() + after
    while number is not None and time.perf_counter() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if number is not None:
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
