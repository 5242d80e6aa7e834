"""One request is scored at a time, a few wait, and all are counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from leakcache.files import json_text
from leakcache.progress import silent
from leaknet.scoring.answers import Answer, Answers
from leaknet.scoring.predict import Predictor
from leaknet.serve.uploads import Limits, Upload

AT_ONCE = 8
"""Images that are scored before another request has its turn."""

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

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run on the thread that scores, after what was submitted before."""
        return await asyncio.wrap_future(self._thread.submit(work))

    def parts(
        self, uploads: Sequence[Upload], alpha: float, *, stability: bool
    ) -> Iterator[Answers]:
        """Answers for images, in order; those after the time limit get a reason instead."""
        limit, spent = self._limits.seconds, 0.0
        late = f"not scored: the time limit of {limit:g} s was reached"
        for first in range(0, len(uploads), AT_ONCE):
            start = time.monotonic()
            part = uploads[first : first + AT_ONCE]
            if spent > limit:
                part = [replace(u, data=b"", reason=u.reason or late) for u in part]
            yield self._scored(part, alpha, stability=stability)
            spent += time.monotonic() - start

    def _scored(self, uploads: Sequence[Upload], alpha: float, *, stability: bool) -> Answers:
        usable = [upload for upload in uploads if not upload.reason]
        answers = self._predictor.score(
            [upload.data for upload in usable],
            alpha=alpha,
            stability=stability,
            names=[upload.name for upload in usable],
            progress=silent,
        )
        scored = iter(answers)
        images = [Answer(u.name, u.reason) if u.reason else next(scored) for u in uploads]
        with self._lock:
            self.counts.update(("images", one.verdict or "not_scored") for one in images)
        return replace(answers, images=tuple(images))

    def explain(self, upload: Upload, alpha: float, form: str) -> str:
        """The explanation of one image, as "html" or "json".

        Raises:
            ImageError: it cannot be used as an image.
        """
        from leaknet.explain import explain_image
        from leaknet.explain.page import keyed_figures, render

        run = self._predictor
        found = replace(explain_image(run, upload.data, alpha), path=upload.name)
        if form == "json":
            return json_text({"run": str(run.run), "images": [found.as_dict()]})
        return render([found], str(run.run), [keyed_figures(found)])

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
