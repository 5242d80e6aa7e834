"""Controls: permuted labels, attention modes on held-out images; and real against generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.special import logsumexp
from torch import Tensor

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import GlobalKDE
from leaknet.features.noise import epoch_seed
from leaknet.metrics import roc
from leaknet.metrics.detection import Detection, Metrics, summarise_open
from leaknet.metrics.summary import (
    Measure,
    Summary,
    Weights,
    layout,
    over_seeds,
    picked,
    summarise_closed,
)
from leaknet.metrics.values import log_odds
from leaknet.model.branch import Gate
from leaknet.model.protoleaknet import ProtoLeakNet

DRAWS = 10_000


@dataclass(frozen=True)
class ShuffleSummary:
    """Runs on shuffled labels, evaluated on the test fold.

    Labels are permuted within the training and the validation fold; the test fold keeps its own. A
    run on such labels may not attribute test images better than chance. Chance is not exactly .5
    for one run: a network maps all images of one generator to much the same place, and whether that
    place is right by luck is decided once per generator, not once per image. So the figure is set
    against its own null distribution, in which the *names* of the classes are permuted.

    Attributes:
        macro_auc: over seeds, with its interval over images.
        top1: likewise.
        chance: central 95 % of the mean macro AUC if names meant nothing.
    """

    macro_auc: Summary
    top1: Summary
    chance: tuple[float, float]

    @property
    def passed(self) -> bool:
        """Whether the mean does not lie above the range of chance."""
        return self.macro_auc.value <= self.chance[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "macro_auc": self.macro_auc.value,
            "top1": self.top1.value,
            "sd": {"macro_auc": self.macro_auc.sd, "top1": self.top1.sd},
            "interval": {"macro_auc": self.macro_auc.interval, "top1": self.top1.interval},
            "chance": self.chance,
            "passed": self.passed,
            "seeds": list(self.macro_auc.seeds),
        }


def summarise_shuffled(tests: Sequence[Embeddings]) -> ShuffleSummary:
    """Summarise runs on shuffled labels, one test fold a seed."""
    closed = summarise_closed(tests).metrics
    return ShuffleSummary(closed["macro_auc"], closed["top1"], chance_range(tests))


def chance_range(tests: Sequence[Embeddings], *, seed: int = 0) -> tuple[float, float]:
    """2.5 and 97.5 percentiles of the mean macro AUC when each run's names are permuted."""
    rng = np.random.default_rng(seed)
    means = np.zeros(DRAWS)
    for test in tests:
        areas = cross_areas(test)
        count = len(areas)
        names = np.argsort(rng.random((DRAWS, count)), axis=1)
        means += areas[np.arange(count), names].mean(axis=1) / len(tests)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def cross_areas(test: Embeddings) -> Float64[np.ndarray, "class class"]:
    """[i, j]: area of the odds of class j for the images of class i against the others.

    Its diagonal has the one-vs-rest areas. Classes that the fold lacks are left out.
    """
    odds: Float[np.ndarray, "n class"] = log_odds(test.logits)
    present = np.unique(test.targets)
    return np.array(
        [[_area(odds[:, j], test.targets == i) for j in present.tolist()] for i in present.tolist()]
    )


def _area(odds: Float64[np.ndarray, "n"], own: np.ndarray) -> float:
    return float(roc(odds[own], odds[~own]).auroc()[0])


GateWeights = Callable[[Tensor], Tensor]
"""From embeddings to the weights w, as `ProtoLeakNet.gate` gives them."""

MODES = ("both_off", "both_on", "dual")
PUBLISHED = {
    "both_off": (0.5724, 0.44, 0.89),
    "both_on": (0.5662, 0.45, 0.90),
    "dual": (1.0, 0.0, 0.0),
}
"""AUROC, EER and OVL in the paper's Table 2, on WILD."""
REPORTED = ("auroc", "eer", "ovl")
WARNING = (
    "A high figure for `dual` means nothing. It embeds closed images with the gate and open ones "
    "without, so the operator must know which images are open before they are scored, and what "
    "is measured is that difference in treatment. Its control gives held-out images of the "
    "*known* generators the open images' treatment: where that scores as high, no open image "
    "was ever detected. The same holds for a gate that was never trained."
)


@dataclass(frozen=True)
class ModeSummary:
    """One attention mode of the paper (its Table 2), evaluated by KDE.

        both_off   h̄ for every image
        both_on    w ⊙ h̄ for every image, w = σ(A h̄ + b) being the gate
        dual       w ⊙ h̄ for closed images, h̄ for open ones

    The first two treat all images alike. `dual` does not: whoever embeds an image must know
    beforehand whether it is open, and the gate, whose weights lie in (0, 1), shrinks the one kind
    and not the other. So it tells the two *treatments* apart, not the images. The control shows it:
    held-out closed images take the part of the open ones. An honest mode then scores .5, `dual`
    about 1, and with a gate that was never trained no less.

    Attributes:
        unknown: against the unknown generators; None without an open set.
        control: against held-out closed images, which nothing honest can tell from the known.
        control_untrained: the same with a gate of random weights.
    """

    unknown: Metrics | None
    control: Metrics
    control_untrained: Metrics

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        parts = {"control": self.control, "control_untrained": self.control_untrained}
        unknown = {} if self.unknown is None else _plain(self.unknown)
        return unknown | {name: _plain(metrics) for name, metrics in parts.items()}


def gate_of(model: ProtoLeakNet) -> GateWeights | None:
    """The trained gate; None for a model without one."""
    return model.gate if model.config.head.gate else None


def gate_weights(gate: GateWeights | None, vectors: Float[np.ndarray, "n dimension"]) -> np.ndarray:
    """The weights w of each embedding, from h̄ alone.

    Raises:
        ScoringError: the model has no gate.
    """
    if gate is None:
        raise ScoringError("this model has no gate (head.gate = false): Table 2 is about gates")
    with torch.inference_mode():
        weights: np.ndarray = gate(torch.from_numpy(vectors)).numpy()
    return weights


def untrained_gate(dimension: int, seed: int) -> Gate:
    """A gate with the random weights that training would start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(epoch_seed(seed, 0))
        return Gate(dimension)


def detect(
    mode: str, gate: GateWeights | None, known: Embeddings, unknown: Embeddings
) -> Detection:
    """Fit KDE to the embeddings of the closed training images under the mode; score both sides."""
    known, unknown = (replace(e, density=None) for e in (known, unknown))
    closed = _gated(known, gate) if mode != "both_off" else known
    others = _gated(unknown, gate) if mode == "both_on" else unknown
    train, val, test = (closed.select(fold) for fold in ("train", "val", "test"))
    return Detection.of(GlobalKDE().fit(train, val), val, test, others)


def halves(known: Embeddings) -> tuple[Embeddings, Embeddings]:
    """The closed set with half of its test fold, and the other half as pseudo-unknown images.

    Every other prompt group goes to the second half.

    Raises:
        ScoringError: the test fold has fewer than two prompt groups.
    """
    inside = known.folds == "test"
    groups = np.unique(known.groups[inside])
    if len(groups) < 2:
        raise ScoringError("the control of the attention modes needs two prompt groups in test")
    held_out = inside & np.isin(known.groups, groups[1::2])
    count = int(held_out.sum())
    labels, folds = np.full(count, "held out"), np.full(count, "open")
    return known.take(~held_out), replace(known.take(held_out), labels=labels, folds=folds)


def summarise_modes(
    known: Sequence[Embeddings],
    unknown: Sequence[Embeddings],
    gates: Sequence[GateWeights | None],
    modes: Sequence[str] = MODES,
) -> dict[str, ModeSummary]:
    """Table 2, with controls, over seeds.

    Args:
        known: closed embeddings under each seed.
        unknown: open ones under each seed; empty without an open set.
        gates: the trained gate under each seed.
        modes: which of `MODES`.
    """
    fresh = [untrained_gate(e.vectors.shape[1], e.seed) for e in known]
    split = [halves(e) for e in known]
    kept, held_out = [one for one, _ in split], [other for _, other in split]
    return {
        mode: ModeSummary(
            _summary(mode, gates, known, unknown) if unknown else None,
            _summary(mode, gates, kept, held_out),
            _summary(mode, fresh, kept, held_out),
        )
        for mode in modes
    }


def _summary(
    mode: str,
    gates: Sequence[GateWeights | None],
    known: Sequence[Embeddings],
    unknown: Sequence[Embeddings],
) -> Metrics:
    rows = zip(gates, known, unknown, strict=True)
    found = summarise_open("kde", [[detect(mode, gate, own, other)] for gate, own, other in rows])
    return {metric: found.pooled[metric] for metric in REPORTED}


def _gated(e: Embeddings, gate: GateWeights | None) -> Embeddings:
    return replace(e, vectors=e.vectors * gate_weights(gate, e.vectors))


def _plain(metrics: Metrics) -> dict[str, Any]:
    return layout(partial(picked, metrics))


@dataclass(frozen=True)
class RealSummary:
    """Real against generated.

    An image is as real as the odds of the real classes say, by the prototype logits. Nothing is
    trained for the question, and a real class is never left out as an unknown generator.

    Attributes:
        classes: those marked as real.
        known: auroc, accuracy (odds above even), balanced accuracy, on the test fold.
        unknown: auroc of the real test images against generators never trained on, and the
            fraction of these called generated; empty without an open set.
    """

    classes: tuple[str, ...]
    known: dict[str, Summary]
    unknown: dict[str, Summary]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {**self.known, **{f"unknown.{name}": one for name, one in self.unknown.items()}}
        return {
            "classes": list(self.classes),
            **layout(partial(picked, found)),
            "seeds": picked(found, lambda summary: list(summary.seeds)),
        }


def check_real(real: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse marks that leave nothing to tell apart.

    Raises:
        ScoringError: a marked class is not known, or all are marked.
    """
    if strange := sorted(set(real) - set(classes)):
        raise ScoringError(f"--real {strange[0]}: take some of {', '.join(classes)}")
    if real and set(real) >= set(classes):
        raise ScoringError("--real marks every class: leave at least one generator unmarked")


def summarise_real(
    tests: Sequence[Embeddings], unknown: Sequence[Embeddings], real: Sequence[str]
) -> RealSummary:
    """Summarise real against generated over seeds.

    Args:
        tests: the test fold under each seed.
        unknown: the unknown generators under each seed; empty without an open set.
        real: classes that are photographs.

    Raises:
        ScoringError: the test fold holds no real or no generated images.
    """
    own = np.isin(tests[0].labels, real)
    if own.all() or not own.any():
        raise ScoringError("the test fold holds no real or no generated images: change the split")
    marked = np.isin(tests[0].classes, real)
    found = over_seeds(
        [_known_measure(_realness(test, marked), own) for test in tests], [tests[0].groups]
    )
    against: dict[str, Summary] = {}
    if unknown:
        measures = [
            _unknown_measure(_realness(test, marked)[own], _realness(other, marked))
            for test, other in zip(tests, unknown, strict=True)
        ]
        against = over_seeds(measures, [tests[0].groups[own], unknown[0].groups])
    return RealSummary(tuple(real), found, against)


def _known_measure(odds: Float64[np.ndarray, "n"], real: Bool[np.ndarray, "n"]) -> Measure[str]:
    right = (odds > 0) == real

    def measure(weights: Sequence[Weights] | None) -> dict[str, np.ndarray]:
        w = np.ones((1, len(odds))) if weights is None else weights[0]
        recall = [(w[:, s] @ right[s]) / w[:, s].sum(axis=1) for s in (real, ~real)]
        return {
            "auroc": roc(odds[real], odds[~real], w[:, real], w[:, ~real]).auroc(),
            "accuracy": (w @ right) / w.sum(axis=1),
            "balanced": np.mean(recall, axis=0),
        }

    return measure


def _unknown_measure(
    real: Float64[np.ndarray, "n"], unknown: Float64[np.ndarray, "k"]
) -> Measure[str]:
    def measure(weights: Sequence[Weights] | None) -> dict[str, np.ndarray]:
        own, other = weights or [np.ones((1, len(part))) for part in (real, unknown)]
        return {
            "auroc": roc(real, unknown, own, other).auroc(),
            "called_generated": (other @ (unknown <= 0)) / other.sum(axis=1),
        }

    return measure


def _realness(e: Embeddings, marked: Bool[np.ndarray, "class"]) -> Float64[np.ndarray, "n"]:
    """Log odds that the image is of a real class, under the softmax of the logits."""
    logits = e.logits.astype(np.float64)
    real, generated = (logsumexp(logits[:, m], axis=1) for m in (marked, ~marked))
    odds: Float64[np.ndarray, "n"] = real - generated
    return odds
