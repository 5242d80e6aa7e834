"""A bound on the pixels that all threads decode at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """Makes threads wait while the images of other threads fill a number of pixels."""

    def __init__(self, limit: int) -> None:
        """A budget of `limit` pixels; a larger image takes all of it."""
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()
        self._thread = threading.local()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels while the body runs; nothing more inside another such body."""
        if getattr(self._thread, "inside", False):
            yield
            return
        pixels = min(pixels, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._held + pixels <= self._limit)
            self._held += pixels
        self._thread.inside = True
        try:
            yield
        finally:
            self._thread.inside = False
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()
