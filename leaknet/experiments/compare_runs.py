"""Two scored runs on the same images: which is better, and could it be luck?

The tests are those of `leaknet.metrics.paired_tests`: paired image by image, clustered by
prompt group.
They speak of these two runs. Whether a *method* is better is a question for several seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import RunError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.metrics.closed_set import correct
from leaknet.metrics.paired_tests import Difference, OpenScoring, compare_closed, compare_open
from leaknet.scoring.fitted_detectors import load_scorers
from leaknet.scoring.run_embeddings import UNKNOWN
from leaknet.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunComparison:
    """B minus A.

    Attributes:
        a: first run's folder.
        b: second run's folder.
        images: known and unknown images that both were judged on.
        closed: top1, balanced, macro_auc, ece on the test fold, by the prototype logits.
        open: metrics against the unknown generators; empty where a run has no open set.
        detector: that of `open`.
    """

    a: Path
    b: Path
    images: dict[str, int]
    closed: dict[str, Difference]
    open: dict[str, Difference]
    detector: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "images": self.images,
            "detector": self.detector,
            "closed": {name: asdict(one) for name, one in self.closed.items()},
            "open": {name: asdict(one) for name, one in self.open.items()},
        }


def compare_runs(a: Path, b: Path, kind: type[Detector]) -> RunComparison:
    """Compare two runs that `leak score` or `leak evaluate` has judged.

    Args:
        a: a run folder.
        b: another.
        kind: detector for the open set, compared where both runs were scored against one.

    Raises:
        RunError: a run was not scored with its present weights, or the two were judged on
            different images, labels or prompt groups.
        ScoringError: the images are of one prompt group.
    """
    one, other = _closed(a), _closed(b)
    first, second = one.select("test"), other.select("test")
    _require_same(first, second, a, b, "test")
    strangers = [_unknown(path, e.run) for path, e in ((a, one), (b, other))]
    images, opened = {"test": len(first)}, {}
    if strangers[0] is not None and strangers[1] is not None:
        _require_same(strangers[0], strangers[1], a, b, "open")
        images["open"] = len(strangers[0])
        opened = compare_open(
            _scoring(a, kind, one, strangers[0]),
            _scoring(b, kind, other, strangers[1]),
            first.groups,
            strangers[0].groups,
        )
    closed = compare_closed(first.logits, second.logits, first.targets, first.groups)
    return RunComparison(a, b, images, closed, opened, kind.name)


def _closed(path: Path) -> Embeddings:
    run = RunFolder(path)
    known = Embeddings.load(run.embeddings)
    if known.run != run.fingerprint() or not len(known.select("test")):
        raise RunError(f"{path}: its test fold has not been scored; run `leak score --run {path}`")
    return known


def _unknown(path: Path, digest: str) -> Embeddings | None:
    if not (path / UNKNOWN).is_file():
        return None
    strangers = Embeddings.load(path / UNKNOWN)
    if strangers.run != digest:
        raise RunError(
            f"{path}: was trained again since its open set was scored; "
            f"run `leak score --kde --run {path}`"
        )
    return strangers


def _require_same(first: Embeddings, second: Embeddings, a: Path, b: Path, fold: str) -> None:
    shared = np.intersect1d(first.hashes, second.hashes).size
    if not np.array_equal(first.hashes, second.hashes):
        raise RunError(
            f"{a} and {b} were judged on different {fold} images ({len(first)} and {len(second)}, "
            f"{shared} in common): score both on the same data"
        )
    for column in ("labels", "groups"):
        if not np.array_equal(getattr(first, column), getattr(second, column)):
            raise RunError(
                f"{a} and {b} were judged on {fold} images with different {column}: "
                "build their caches from one index"
            )
    if first.classes != second.classes:
        raise RunError(f"{a} and {b} know different generators: their class scores do not compare")


def _scoring(
    path: Path, kind: type[Detector], known: Embeddings, unknown: Embeddings
) -> OpenScoring:
    (detector,) = load_scorers(path, [kind], known, known.run)
    test = known.select("test")
    return OpenScoring(
        known=detector.score_samples(test),
        unknown=detector.score_samples(unknown),
        correct=correct(test.logits, test.targets),
    )
