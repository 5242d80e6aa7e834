"""The paper's three attention modes (its Table 2), each beside its control.

    both_off   h̄ for every image
    both_on    w ⊙ h̄ for every image, w = σ(A h̄ + b) being the gate
    dual       w ⊙ h̄ for closed images, h̄ for open ones

The first two treat all images alike. `dual` does not: whoever embeds an image must know
beforehand whether it is open, and the gate, whose weights lie in (0, 1), shrinks the one kind
and not the other. So it tells the two *treatments* apart, not the images. The control shows it:
held-out closed images take the part of the open ones. An honest mode then scores .5, `dual`
about 1, and with a gate that was never trained no less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import GlobalKDE
from leaknet.evaluation.open_set import Detection, Metrics, summarise_open
from leaknet.evaluation.summary import layout, picked
from leaknet.features.noise import epoch_seed
from leaknet.model.head import Gate
from leaknet.model.protoleaknet import ProtoLeakNet

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
    """One mode, evaluated by KDE.

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
