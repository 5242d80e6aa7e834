"""Paired comparison of two scored runs on the same images, by prompt group.

It compares these two runs. Whether a *method* is better is a question for several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import RunError, ScoringError
from leaknet.checksums import is_there
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.experiments.tables import Grid
from leaknet.metrics.detection import OPEN, Detection, Evaluated
from leaknet.metrics.summary import PairedDifference
from leaknet.scoring.run_embeddings import UNKNOWN, load_scorers
from leaknet.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunComparison:
    """B minus A.

    Attributes:
        a: first run's folder.
        b: second run's folder.
        images: known and unknown images that both were evaluated on.
        closed: closed-set metrics of the logits on the test fold.
        open: open-set metrics; empty where a run has no open set.
        detector: that of `open`.
    """

    a: Path
    b: Path
    images: dict[str, int]
    closed: dict[str, PairedDifference]
    open: dict[str, PairedDifference]
    detector: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "images": self.images,
            "detector": self.detector,
            "closed": _plain(self.closed),
            "open": _plain(self.open),
        }


def compare_runs(a: Path, b: Path, kind: type[Detector]) -> RunComparison:
    """Compare two runs that `leak score` or `leak evaluate` has scored.

    Args:
        a: a run folder.
        b: another.
        kind: detector for the open set, compared where both runs were scored against one.

    Raises:
        RunError: a run was not scored with its present weights, or the two were scored on
            different images, labels or prompt groups.
        ScoringError: the images are of one prompt group.
    """
    one, other = _closed(a), _closed(b)
    first, second = one.select("test"), other.select("test")
    _require_same(first, second, a, b, "test")
    before, after = Evaluated((first,), (first.logits,)), Evaluated((second,), (second.logits,))
    images, mine, theirs = {"test": len(first)}, _unknown(a, one.run), _unknown(b, other.run)
    if mine is not None and theirs is not None:
        _require_same(mine, theirs, a, b, "open")
        images["open"] = len(mine)
        before = replace(before, detections=(_detection(a, kind, one, mine),))
        after = replace(after, detections=(_detection(b, kind, other, theirs),))
    found = after.minus(before)
    if any(one.interval is None for one in found.values()):
        raise ScoringError("a comparison needs two prompt groups in every set of images")
    closed = {name: d for name, d in found.items() if not name.startswith(OPEN)}
    opened = {name.removeprefix(OPEN): d for name, d in found.items() if name.startswith(OPEN)}
    return RunComparison(a, b, images, closed, opened, kind.name)


def comparison_table(result: RunComparison) -> Grid:
    """B minus A, metric by metric."""
    rows = [("closed", name, one) for name, one in _plain(result.closed).items()]
    rows += [(f"open, {result.detector}", name, one) for name, one in _plain(result.open).items()]
    return Grid(
        f"B ({result.b}) minus A ({result.a})",
        ("set", "metric", "difference", "95 % interval", "p"),
        tuple(
            (
                where,
                name,
                f"{d['value']:+.4f}",
                f"{d['low']:+.4f} to {d['high']:+.4f}",
                f"{d['p']:.4f}",
            )
            for where, name, d in rows
        ),
        (
            "Paired on the same images and clustered by prompt group; two-sided p, by sign "
            "flips for top-1 and by the bootstrap elsewhere. One run against one run: other "
            "training seeds may differ by as much.",
        ),
    )


def _plain(differences: Mapping[str, PairedDifference]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, one in differences.items():
        low, high = one.interval or (None, None)
        found[name] = {"value": one.value, "low": low, "high": high, "p": one.p}
    return found


def _closed(path: Path) -> Embeddings:
    run = RunFolder(path)
    known = Embeddings.load(run.embeddings)
    if known.run != run.fingerprint() or not len(known.select("test")):
        raise RunError(f"{path}: its test fold has not been scored; run `leak score --run {path}`")
    return known


def _unknown(path: Path, digest: str) -> Embeddings | None:
    if not is_there(path / UNKNOWN):
        return None
    unknown = Embeddings.load(path / UNKNOWN)
    if unknown.run != digest:
        raise RunError(
            f"{path}: was trained again since its open set was scored; "
            f"run `leak score --kde --run {path}`"
        )
    return unknown


def _require_same(first: Embeddings, second: Embeddings, a: Path, b: Path, fold: str) -> None:
    shared = np.intersect1d(first.hashes, second.hashes).size
    if not np.array_equal(first.hashes, second.hashes):
        raise RunError(
            f"{a} and {b} were scored on different {fold} images ({len(first)} and {len(second)}, "
            f"{shared} in common): score both on the same data"
        )
    for column in ("labels", "groups"):
        if not np.array_equal(getattr(first, column), getattr(second, column)):
            raise RunError(
                f"{a} and {b} were scored on {fold} images with different {column}: "
                "build their caches from one index"
            )
    if first.classes != second.classes:
        raise RunError(f"{a} and {b} know different generators: their class scores do not compare")


def _detection(
    path: Path, kind: type[Detector], known: Embeddings, unknown: Embeddings
) -> Detection:
    (detector,) = load_scorers(path, [kind], known, known.run)
    return Detection.of(detector, known.select("val"), known.select("test"), unknown)
