"""Keep freed memory instead of handing it back to the system after every layer.

A convolution at 256 × 256 allocates and frees tens of megabytes. glibc maps and unmaps blocks of
that size, and the kernel then zeroes their pages again and again: on a CPU that is up to half of
an encoder's time (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Let the allocator of this process serve large blocks from memory that it keeps.

    Returns:
        Whether the allocator is glibc's and took the setting; elsewhere nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 26))
    return all(mallopt(name, value) == 1 for name, value in settings)


def release_freed_memory() -> None:
    """Give what is kept back to the system, where the allocator is glibc's.

    Each thread keeps memory of its own, so that after large images all would keep one.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


_limit: int | None = None


def memory_limit() -> int:
    """Bytes that arrays of images may take together."""
    return _machine_memory() // 2 if _limit is None else _limit


def set_memory_limit(size: int | None) -> None:
    """Bound them; by half of the machine's memory without a size."""
    global _limit  # noqa: PLW0603  # a limit of the process
    _limit = size


def _machine_memory() -> int:
    """Bytes of the machine, or of the control group that the process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return min(physical, int(Path("/sys/fs/cgroup", file).read_text()))
    return physical
