"""Files on threads: in order, and never more than a few ahead."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from leakcache.images.archive import read_image

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(16, os.cpu_count() or 2)
AHEAD = 32
"""Results in flight at most: bounds memory whatever the number of items."""


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes; empty where it cannot be read."""
    try:
        return hashlib.sha256(read_image(path)).hexdigest()
    except OSError:
        return ""


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = AHEAD
) -> Generator[Result]:
    """Map over items on threads, in order, never more than `ahead` results in memory."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
