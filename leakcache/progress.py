"""How far long work has come: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int], None]
Track = Callable[[str, int, str], AbstractContextManager[Advance]]

SECONDS_BETWEEN_LINES = 10.0


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self._unit}/s" if speed else "", style="cyan")


@contextmanager
def track(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Show progress while the body runs.

    Args:
        description: what is being done.
        total: number of units to do.
        unit: plural name of what is counted.

    Yields:
        A function to call with the number of units done since the last call.
    """
    if sys.stderr.isatty():
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        yield _Lines(description, total, unit)


@contextmanager
def silent(description: str, total: int, unit: str) -> Iterator[Advance]:
    """As `track`, and show nothing."""
    yield lambda units: None


@contextmanager
def _bar(description: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda units: progress.advance(task, units)


class _Lines:
    """One line at the beginning, one every few seconds and one at the end."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = 0
        self._start = self._last = time.monotonic()
        if total:
            print(f"{description} 0/{total} {unit}", file=sys.stderr, flush=True)

    def __call__(self, units: int) -> None:
        self._done += units
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES or self._done == self._total:
            self._last = now
            self._print(now - self._start)

    def _print(self, elapsed: float) -> None:
        rate = self._done / max(elapsed, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        print(
            f"{self._description} {self._done}/{self._total} {self._unit} "
            f"{rate:.1f}/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
