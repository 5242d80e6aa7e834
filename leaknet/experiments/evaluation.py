"""What `leak evaluate` is asked for and finds, and the paired comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import RunError, ScoringError
from leaknet.checksums import is_there
from leaknet.config import RunConfig, config_to_table
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.experiments.answers import AnswerSummary
from leaknet.experiments.controls import ModeSummary, RealSummary, ShuffleSummary
from leaknet.experiments.tables import Grid
from leaknet.experiments.transfer import TransferSummary
from leaknet.experiments.trial import Plan, seeded
from leaknet.metrics.detection import OPEN, Detection, Evaluated, OpenSummary
from leaknet.metrics.summary import ClosedSummary, PairedDifference, Summary
from leaknet.scoring.run_embeddings import UNKNOWN, load_scorers
from leaknet.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan(Plan):
    """A recipe and the protocols to evaluate it by.

    Attributes:
        config: settings of every run; its seed is the first one.
        leave_out: how many generators to leave out at once, 0 for none; or a file of the groups
            to leave out in turn, as families.toml.
        real: known classes that are photographs; the class `real` where none is given.
        modes: also reproduce the attention modes of Table 2.
        shuffle: also train on shuffled labels.
        alpha: false-alarm rate at which answers are evaluated, in (0, 1).
    """

    config: RunConfig
    leave_out: int | Path = 0
    real: tuple[str, ...] = ()
    modes: bool = False
    shuffle: bool = False
    alpha: float = 0.05

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """Settings under each seed."""
        return seeded(self.config, self.seeds)


@dataclass(frozen=True)
class LeaveOut:
    """Generators left out in turn.

    Attributes:
        folds: the generators that each training left out.
        detectors: by name, against them.
        closed: naming the generators that remained, one summary a fold.
        answers: as in `Evaluation`, the mean of the folds.
    """

    folds: tuple[tuple[str, ...], ...]
    detectors: dict[str, OpenSummary]
    closed: tuple[ClosedSummary, ...]
    answers: AnswerSummary | None

    def as_dict(self, detector: str) -> dict[str, Any]:
        """Plain values for JSON, for one detector."""
        found = self.detectors[detector]
        return {**found.as_dict(), "folds": self._folds(found), "closed": self._closed()}

    def _folds(self, found: OpenSummary) -> list[dict[str, Any]]:
        return [
            {"left_out": list(names), **{metric: one.value for metric, one in row.items()}}
            for names, row in zip(self.folds, found.folds, strict=True)
        ]

    def _closed(self) -> dict[str, float]:
        """Means over folds and seeds."""
        metrics = self.closed[0].metrics
        return {m: float(np.mean([fold.metrics[m].value for fold in self.closed])) for m in metrics}


@dataclass(frozen=True)
class SeedFacts:
    """What was fixed on closed data under one seed.

    Attributes:
        run: folder of the run on all closed generators.
        model: SHA-256 of its weights.
        settings: by detector, what it chose, such as the bandwidth.
        thresholds: by detector, the score that 95 % of the validation images reach.
    """

    run: Path
    model: str
    settings: dict[str, dict[str, Any]]
    thresholds: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All results of `leak evaluate`.

    Attributes:
        plan: what was asked.
        cache: folder of the closed cache.
        classes: the known generators.
        images: by fold, `open` for those of other caches.
        facts: of each seed.
        closed: by scorer (`prototype`, `mahalanobis`), on the test fold.
        validation: the prototype scorer on the fold where choices were made.
        open: by detector, against generators of other caches; empty without any.
        answers: verdicts and prediction sets; None where the validation fold cannot calibrate.
        leave_out: None where no generator was left out.
        modes: Table 2; empty where it was not asked for.
        real: None where no class is marked real.
        shuffle: None where it was not asked for.
        transfer: by collection.
        audit: controls of the data without any training, as in `leak audit`.
    """

    plan: EvaluationPlan
    cache: Path
    classes: tuple[str, ...]
    images: dict[str, int]
    facts: tuple[SeedFacts, ...]
    closed: dict[str, ClosedSummary]
    validation: ClosedSummary
    open: dict[str, OpenSummary]
    answers: AnswerSummary | None
    leave_out: LeaveOut | None
    modes: dict[str, ModeSummary]
    real: RealSummary | None
    shuffle: ShuffleSummary | None
    transfer: dict[str, TransferSummary] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; parts that were not asked for are absent."""
        return {
            "protocol": self._protocol(),
            "images": self.images,
            "closed": {
                **self.closed["prototype"].as_dict(),
                "mahalanobis": self.closed["mahalanobis"].as_dict(),
            },
            "validation": self.validation.as_dict(),
            "answers": self._answers(),
            **self._unknown(),
            **({"table2": {n: m.as_dict() for n, m in self.modes.items()}} if self.modes else {}),
            **({"real": self.real.as_dict()} if self.real else {}),
            **({"transfer": self._transfer()} if self.transfer else {}),
            "controls": self._controls(),
            "seeds": {str(c.train.seed): self._seed(i) for i, c in enumerate(self.plan.configs)},
        }

    def _protocol(self) -> dict[str, Any]:
        return {
            "cache": str(self.cache),
            "classes": list(self.classes),
            "config": config_to_table(self.plan.config),
            "seeds": [config.train.seed for config in self.plan.configs],
            "detectors": [kind.name for kind in self.plan.kinds],
            "reported": self.plan.reported,
            "leave_out": left if isinstance(left := self.plan.leave_out, int) else str(left),
            "folds": [list(fold) for fold in self.leave_out.folds] if self.leave_out else [],
            "real": list(self.plan.real),
        }

    def _unknown(self) -> dict[str, Any]:
        """Open and leave-out figures: the reported detector on top, then all of them."""
        reported, left = self.plan.reported, self.leave_out
        tables: dict[str, dict[str, Any]] = {kind.name: {} for kind in self.plan.kinds}
        for name, table in tables.items():
            if self.open:
                table["open"] = self.open[name].as_dict()
            if left:
                table["leave_out"] = left.as_dict(name)
        return {**tables[reported], "detectors": tables} if self.open or left else {}

    def _answers(self) -> dict[str, Any]:
        """Of the runs on all generators, and with generators left out."""
        found = {"all": self.answers, "leave_out": self.leave_out and self.leave_out.answers}
        return {name: one.as_dict() for name, one in found.items() if one}

    def _transfer(self) -> dict[str, Any]:
        return {name: one.as_dict() for name, one in self.transfer.items()}

    def _controls(self) -> dict[str, Any]:
        shuffle = {"label_shuffle": self.shuffle.as_dict()} if self.shuffle else {}
        return shuffle | ({"audit": self.audit} if self.audit else {})

    def _seed(self, number: int) -> dict[str, Any]:
        """The same figures under one seed."""

        def pick(summary: Summary) -> float:
            return summary.seeds[number]

        facts, reported = self.facts[number], self.plan.reported
        found = {
            "run": str(facts.run),
            "model": facts.model,
            "settings": facts.settings,
            "thresholds": facts.thresholds,
            "closed": {
                **self.closed["prototype"].nested(pick),
                "mahalanobis": self.closed["mahalanobis"].nested(pick),
            },
            "validation": self.validation.nested(pick),
        }
        if self.open:
            found["open"] = self.open[reported].nested(pick)
        if self.leave_out:
            found["leave_out"] = self.leave_out.detectors[reported].nested(pick)
        if self.transfer:
            found["transfer"] = {name: one.nested(pick) for name, one in self.transfer.items()}
        return found


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

    It compares these two runs. Whether a *method* is better is a question for several seeds.

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
