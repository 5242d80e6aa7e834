"""Keep freed memory instead of handing it back to the system after every layer.

A convolution at 256 × 256 allocates and frees tens of megabytes. glibc maps and unmaps blocks of
that size, and the kernel then zeroes their pages again and again: on a CPU that is up to half of
an encoder's time (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import sys
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
