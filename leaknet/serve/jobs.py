"""One request is scored at a time, a few wait, and all are counted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from leakcache.progress import silent
from leaknet.scoring.answers import Answer, Answers
from leaknet.scoring.predict import Predictor
from leaknet.serve.limits import Limits
from leaknet.serve.uploads import Upload

AT_ONCE = 8
"""Images that are scored between two looks at the clock."""

Result = TypeVar("Result")


class Busy(Exception):
    """As many requests wait as may."""


class Jobs:
    """A bounded queue in front of one thread that scores.

    Attributes:
        counts: of answered requests by status, and of images by verdict.
        seconds: spent on answered requests.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds = 0.0
        self._predictor, self._limits = predictor, limits
        self._lock, self._inside = threading.Lock(), 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")

    @property
    def inside(self) -> int:
        """Requests that are received, wait or are scored."""
        return self._inside

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a place in the queue while the body runs; raises Busy where all are taken."""
        with self._lock:
            if self._inside > self._limits.waiting:
                raise Busy
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Run on the thread that scores, after what was submitted before."""
        return self._thread.submit(work)

    def score(self, uploads: Sequence[Upload], alpha: float, *, stability: bool) -> Answers:
        """Answers for images, in order; those after the time limit get a reason instead."""
        end = time.monotonic() + self._limits.seconds
        usable = [upload for upload in uploads if not upload.reason]
        found: list[Answer] = []
        for start in range(0, max(len(usable), 1), AT_ONCE):
            part = usable[start : start + AT_ONCE]
            if found and time.monotonic() > end:
                late = f"not scored: the time limit of {self._limits.seconds:g} s was reached"
                found += [Answer(upload.name, late) for upload in usable[start:]]
                break
            answers = self._predictor.score(
                [upload.data for upload in part],
                alpha=alpha,
                stability=stability,
                names=[upload.name for upload in part],
                progress=silent,
            )
            found += answers
        scored = iter(found)
        images = [Answer(u.name, u.reason) if u.reason else next(scored) for u in uploads]
        with self._lock:
            self.counts.update(("images", one.verdict or "not_scored") for one in images)
        return replace(answers, images=tuple(images))

    def count(self, status: int, seconds: float) -> None:
        """Count an answered request."""
        with self._lock:
            self.counts["requests", str(status)] += 1
            self.seconds += seconds

    def metrics(self) -> str:
        """The counts in Prometheus' text format."""
        with self._lock:
            counts = sorted(self.counts.items())
        lines = []
        for family, label in (("requests", "status"), ("images", "verdict")):
            lines.append(f"# TYPE leak_{family}_total counter")
            lines += [
                f'leak_{family}_total{{{label}="{value}"}} {count}'
                for (name, value), count in counts
                if name == family
            ]
        lines += ["# TYPE leak_request_seconds_total counter"]
        lines += [f"leak_request_seconds_total {self.seconds:.6f}"]
        lines += ["# TYPE leak_requests_in_progress gauge"]
        lines += [f"leak_requests_in_progress {self._inside}"]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Let the request that is scored finish, and drop those that wait."""
        self._thread.shutdown(cancel_futures=True)
