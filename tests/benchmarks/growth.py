"""Time and memory of fitting the statistics branch by the number of images, as one chart.

    python tests/benchmarks/growth.py CACHE --images 1000 10000 100000 --svg docs/growth.svg

Columns are synthetic: normal, with the mean of each class, the covariance of images and that of
their parts taken from the training fold of a real cache, of every n-th statistic. They are written
to a file once and read from it in each pass, as columns are. Each fit runs in a process of its own;
memory is its highest anonymous memory, so that pages of mapped files do not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from leakcache.images.preprocess import PARTS
from leakcache.processes import set_memory_limit
from leakcache.store.cache import Cache
from leaknet.data.columns import load_fold
from leaknet.model.feature_space import GramSpace, Views
from leaknet.model.ridge import StandardFeatures
from leaknet.model.streaming_space import StreamingSpace
from leaknet.model.two_covariance import held_out

RANK = 256
"""Directions of the covariance of images, and of parts; the rest is independent."""
BLOCK = 512
PROMPTS_OF = 8
"""Images of one prompt group."""


@dataclass(frozen=True)
class Source:
    """Moments of real statistics.

    Attributes:
        means: of each class.
        images: roots of the covariance of images about the mean of their class, direction by value.
        parts: the same of parts about the mean of their image.
        noise: deviation of what both leave.
    """

    means: np.ndarray
    images: np.ndarray
    parts: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, targets: np.ndarray) -> Source:
        """From statistics, image × part × value, and class numbers."""
        images = rows.mean(axis=1)
        means = np.stack([images[targets == c].mean(axis=0) for c in range(targets.max() + 1)])
        about_class = images - means[targets]
        about_image = (rows - images[:, None]).reshape(-1, rows.shape[2])
        roots = [_root(about_class), _root(about_image[:: PARTS - 1])]
        kept = sum(np.square(root).sum(axis=0) for root in roots)
        total = about_class.var(axis=0) + about_image.var(axis=0)
        return cls(means, *roots, np.sqrt(np.maximum(total - kept, 0)))

    def write(self, file: Path, count: int) -> None:
        """Write the statistics of `count` images, image × part × value, in half precision."""
        classes, values = self.means.shape
        out = np.memmap(file, np.float16, "w+", shape=(count, PARTS, values))
        rng = np.random.default_rng(0)
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count))
            shape = (len(rows), PARTS, values)
            found = self.noise * rng.standard_normal(shape, np.float32)
            found += (self.means[rows % classes] + _draw(rng, (len(rows),), self.images))[:, None]
            found += _draw(rng, shape[:2], self.parts)
            out[rows] = found


def _root(rows: np.ndarray) -> np.ndarray:
    """A matrix R of RANK rows with Rᵀ R near the covariance of the rows."""
    _, vectors = np.linalg.eigh(rows @ rows.T / len(rows))
    kept = slice(-min(RANK, len(rows) - 1), None)
    scaled = vectors[:, kept].T @ rows
    return (scaled / np.sqrt(len(rows))).astype(np.float32)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], root: np.ndarray) -> np.ndarray:
    return rng.standard_normal((*shape, len(root)), np.float32) @ root


def read_source(cache: Path, every: int) -> tuple[Source, dict[str, int]]:
    """Moments of every n-th statistic of a cache's training fold, and the lengths of families."""
    opened = Cache.open(cache / "closed")
    train = load_fold(opened, "train", ["pixel_statistics", "activation_statistics"])
    pixels, seen = train["pixel_statistics"], train["activation_statistics"]
    rows = torch.cat([pixels[:, :PARTS, ::every], seen[:, :PARTS, ::every]], dim=2).float().numpy()
    lengths = {"pixels": len(range(0, pixels.shape[2], every))}
    lengths["activations"] = rows.shape[2] - lengths["pixels"]
    return Source.of(rows, train.targets(opened.classes).numpy()), lengths


def fit(file: Path, count: int, classes: int, lengths: dict[str, int], solver: str) -> dict:
    """Fit both closed forms to the columns in a file; seconds and bytes."""
    shape = (count, PARTS, sum(lengths.values()))
    stored = np.memmap(file, np.float16, "r", shape=shape)
    views = Views(count, PARTS, lambda rows: torch.from_numpy(stored[rows]).flatten(0, 1))
    # Images of a prompt group lie apart, as in a cache that is sorted by class.
    groups, targets = np.arange(count) // classes % -(-count // PROMPTS_OF), np.arange(count)
    targets = targets % classes
    one_hot = (np.eye(classes)[targets] - 1 / classes).repeat(PARTS, axis=0)
    kind = {"exact": GramSpace, "streaming": StreamingSpace}[solver]
    with Watch() as watch:
        space = kind.fit(StandardFeatures(lengths), views, groups)
        watch.lap("space")
        regression = space.fit_ridge(one_hot)
        watch.lap("regression")
        numbers = torch.from_numpy(targets)
        held = held_out(space.fit_sources, numbers, groups)
        found = space.fit_sources([(torch.arange(count), numbers)])[0]
        space.weights(torch.cat([regression.dual, found.directions.weights], dim=1))
        watch.lap("sources")
    scores = regression.held_out.reshape(count, PARTS, -1).mean(axis=1)
    accuracy = {
        "ridge": float((scores.argmax(axis=1) == targets).mean()),
        "ratios": float((held.ratios.argmax(dim=1) == numbers).double().mean()),
    }
    return {"solver": solver, "images": count, **watch.result(), "held_out": accuracy}


class Watch:
    """Processor time of the steps, and the highest anonymous memory of the process meanwhile."""

    def __enter__(self) -> Watch:
        self.laps: dict[str, float] = {}
        self._start, self._elapsed = time.process_time(), time.perf_counter()
        self.base = self.peak = _anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.elapsed = time.perf_counter() - self._elapsed

    def lap(self, name: str) -> None:
        """End a step."""
        self.laps[name] = time.process_time() - self._start - sum(self.laps.values())

    def result(self) -> dict:
        """All that was measured."""
        laps = {name: round(seconds, 2) for name, seconds in self.laps.items()}
        cpu = round(sum(laps.values()), 1)
        peak = round(self.peak / 2**30, 3)
        return {"cpu_s": cpu, "elapsed_s": round(self.elapsed, 1), "steps": laps, "peak_gib": peak}

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, _anonymous())


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def measure(
    cache: Path, images: list[int], exact: list[int], every: int, scratch: Path
) -> list[dict]:
    """Fit each number of images by the streaming solver, and some by the exact one."""
    source, lengths = read_source(cache, every)
    found = []
    for count in sorted({*images, *exact}):
        file = scratch / "columns.f16"
        source.write(file, count)
        for solver in ["exact"] * (count in exact) + ["streaming"] * (count in images):
            task = [str(file), count, len(source.means), lengths, solver]
            command = [sys.executable, __file__, "--fit", json.dumps(task)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append({**json.loads(answer.stdout), "values": sum(lengths.values())})
            print(json.dumps(found[-1]), flush=True)
        file.unlink()
    return found


def main() -> None:
    """Measure and draw, or fit once for a parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, nargs="?")
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--exact", type=int, nargs="*", default=[250, 500, 1000])
    parser.add_argument("--every", type=int, default=104, help="one in so many statistics")
    parser.add_argument("--memory", type=int, default=4, help="limit in GiB")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    given = parser.parse_args()
    set_memory_limit(given.memory * 2**30)
    if given.fit:
        file, *rest = json.loads(given.fit)
        print(json.dumps(fit(Path(file), *rest)))
        return
    with tempfile.TemporaryDirectory(prefix="leak-growth-") as scratch:
        found = measure(given.cache, given.images, given.exact, given.every, Path(scratch))
    if given.svg:
        from benchmarks.growth_chart import draw

        given.svg.write_text(draw(found), encoding="utf-8")


if __name__ == "__main__":
    main()
