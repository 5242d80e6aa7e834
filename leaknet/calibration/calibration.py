"""The calibration of a run: everything between its raw scores and a defensible answer.

Made from closed validation embeddings alone, and kept in the run folder as
calibration.safetensors. A p-value is only worth its name where the images it is taken over had no
say in the score. So the validation fold is cut in halves by prompt group: the temperature and the
settings of the detectors (`leaknet.scoring.run_embeddings`) are chosen on one, p-values and
prediction sets count the images of the other; likelihood ratios, of which no guarantee is asked,
use both.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from scipy.special import softmax
from torch import Tensor

from leakcache.errors import RunError, ScoringError
from leaknet.calibration.conformal import (
    alarm_range,
    conformal_p_values,
    depths,
    grouped_bound,
    naming_threshold,
    set_levels,
    too_weak,
)
from leaknet.calibration.conformal import prediction_sets as conformal_sets
from leaknet.calibration.likelihood_ratio import ClassRatios, cllr, min_cllr
from leaknet.calibration.temperature import fit_temperature, log_probabilities
from leaknet.checksums import is_there
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.files import read_tensors, save_tensors
from leaknet.metrics import expected_calibration_error
from leaknet.metrics.values import correct


@dataclass(frozen=True)
class Calibration:
    """Fitted calibration of one run.

    Attributes:
        classes: the known generators.
        temperature: of the logits.
        references: by detector name, scores of the calibrating images.
        conformity: log probability of its true class, for each calibrating image.
        confidence: log probability of its likeliest class.
        evidence: highest log-likelihood ratio of a known source, of each calibrating image; empty
            for a model without sources.
        ratios: log10 likelihood ratios from log odds at that temperature.
        facts: how many images and prompt groups calibrate, and how well (see `as_dict`).
    """

    classes: tuple[str, ...]
    temperature: float
    references: dict[str, Float[np.ndarray, " calibrating"]]
    conformity: Float[np.ndarray, " calibrating"]
    confidence: Float[np.ndarray, " calibrating"]
    evidence: Float[np.ndarray, " evident"]
    ratios: ClassRatios
    facts: dict[str, Any]

    @classmethod
    def fit(cls, closed: Embeddings, detectors: Sequence[Detector]) -> Calibration:
        """Calibrate on the validation fold of a run's closed embeddings.

        Args:
            closed: the run's.
            detectors: those of `leaknet.scoring.run_embeddings.fit_all`, which leave the
                calibrating half alone.

        Raises:
            ScoringError: the validation fold has fewer than two prompt groups.
        """
        val = closed.select("val")
        choosing, calibrating = cut_in_halves(val)
        temperature = fit_temperature(choosing.logits, choosing.targets)
        own = np.arange(len(calibrating)), calibrating.targets
        known = log_probabilities(calibrating.logits, temperature)
        return cls(
            closed.classes,
            temperature,
            {d.name: d.score_samples(calibrating) for d in detectors},
            known[own],
            known.max(axis=1),
            np.empty(0) if calibrating.evidence is None else calibrating.evidence,
            ClassRatios.fit(val.logits / temperature, val.targets),
            {
                "images": len(calibrating),
                "groups": len(set(calibrating.groups.tolist())),
                **_calibration_errors(calibrating, temperature),
                **_ratio_costs(choosing, calibrating, temperature),
            },
        )

    def log_probabilities(self, e: Embeddings) -> Float64[np.ndarray, "image class"]:
        """Natural log of each generator's calibrated probability, among the known ones."""
        return log_probabilities(e.logits, self.temperature)

    def p_values(self, e: Embeddings, detector: Detector) -> Float64[np.ndarray, " image"]:
        """That each image comes from a known generator, as far as the detector can tell."""
        return conformal_p_values(self.references[detector.name], detector.score_samples(e))

    def depths(self, e: Embeddings, detector: Detector) -> Float64[np.ndarray, " image"]:
        """How far each image lies below the calibrating ones; see `conformal.depths`."""
        return depths(self.references[detector.name], detector.score_samples(e))

    def prediction_sets(
        self, e: Embeddings, detector: Detector, alpha: float
    ) -> Bool[np.ndarray, "image class"]:
        """Which generators can't be excluded at level α, or less; see `conformal.set_levels`."""
        levels = set_levels(self.p_values(e, detector), alpha)
        return conformal_sets(self.conformity, self.log_probabilities(e), levels)

    def naming_threshold(self, alpha: float) -> float:
        """The log probability above which an image is named; see `conformal.naming_threshold`."""
        return naming_threshold(self.confidence, self.confidence == self.conformity, alpha)

    def probable(self, e: Embeddings, alpha: float) -> Bool[np.ndarray, " image"]:
        """Whether the likeliest generator of each image is probable enough to be named."""
        found: Bool[np.ndarray, " image"] = self.log_probabilities(e).max(
            axis=1
        ) > self.naming_threshold(alpha)
        return found

    def weak(self, e: Embeddings) -> Bool[np.ndarray, " image"]:
        """Whether the evidence of a known source is too low for a name, however probable."""
        if e.evidence is None or not len(self.evidence):
            return np.zeros(len(e), dtype=bool)
        return too_weak(self.evidence, e.evidence)

    def log10_ratios(self, e: Embeddings) -> Float64[np.ndarray, "image class"]:
        """log10 of the likelihood ratio for each generator against another known one."""
        return self.ratios.log10(e.logits / self.temperature)

    @cached_property
    def smallest_p(self) -> float:
        """Below this no α can call an image unknown, for want of calibrating images."""
        return 1 / (1 + len(self.conformity))

    def as_dict(self, alpha: float) -> dict[str, Any]:
        """Plain values for JSON: facts, and what is guaranteed at level α."""
        images, groups = self.facts["images"], self.facts["groups"]
        bounds = zip(self.ratios.low.tolist(), self.ratios.high.tolist(), strict=True)
        return {
            **self.facts,
            "temperature": self.temperature,
            "smallest_p": self.smallest_p,
            "false_alarms": {
                "exchangeable_images": alpha,
                "exchangeable_groups": grouped_bound(alpha, images, groups),
                "given_this_calibration": list(alarm_range(alpha, images)),
            },
            "log10_lr_range": dict(zip(self.classes, map(list, bounds), strict=True)),
        }


def _calibration_errors(half: Embeddings, temperature: float) -> dict[str, float]:
    """ECE on images that the temperature was not chosen on, before and after it."""
    return {
        "ece_before": top_label_error(half, 1.0),
        "ece_after": top_label_error(half, temperature),
    }


def top_label_error(e: Embeddings, temperature: float) -> float:
    """Expected calibration error of the likeliest generator at a temperature."""
    confidence = softmax(e.logits.astype(np.float64) / temperature, axis=1).max(axis=1)
    return float(expected_calibration_error(confidence, correct(e.logits, e.targets))[0])


def _ratio_costs(one: Embeddings, other: Embeddings, temperature: float) -> dict[str, Any]:
    """Cllr and its minimum: each half under ratios fitted to the other half."""
    costs: dict[str, list[tuple[float, float]]] = {}
    for fitted_on, evaluated in ((one, other), (other, one)):
        ratios = ClassRatios.fit(fitted_on.logits / temperature, fitted_on.targets)
        for name, cost in ratio_costs(ratios, evaluated, temperature).items():
            costs.setdefault(name, []).append(cost)
    means = {name: np.mean(found, axis=0) for name, found in costs.items()}
    every = np.mean(list(means.values()), axis=0) if means else np.full(2, np.nan)
    return {
        "cllr": float(every[0]),
        "min_cllr": float(every[1]),
        "cllr_by_generator": {name: float(mean[0]) for name, mean in means.items()},
        "min_cllr_by_generator": {name: float(mean[1]) for name, mean in means.items()},
    }


def ratio_costs(
    ratios: ClassRatios, e: Embeddings, temperature: float
) -> dict[str, tuple[float, float]]:
    """Cllr and minimal Cllr, in bits, of each generator that these closed images contain."""
    table = ratios.log10(e.logits / temperature)
    costs = {}
    for c, name in enumerate(e.classes):
        own = e.targets == c
        if own.any() and not own.all() and np.isfinite(table[:, c]).all():
            costs[name] = cllr(table[:, c], own), min_cllr(table[:, c], own)
    return costs


# calibration.safetensors: the calibration of a run, as tensors beside its weights.

FILE = "calibration.safetensors"
_RATIOS = tuple(field.name for field in fields(ClassRatios))
_ARRAYS = ("temperature", "conformity", "confidence", "evidence")
_ALWAYS = (*_ARRAYS, *(f"ratios.{name}" for name in _RATIOS))


def save_calibration(run: Path, calibration: Calibration, model: str) -> None:
    """Write the calibration into a run folder; `model` is the sha256 of the run's weights."""
    arrays = {
        "temperature": np.array(calibration.temperature),
        "conformity": calibration.conformity,
        "confidence": calibration.confidence,
        "evidence": calibration.evidence,
        **{f"ratios.{name}": getattr(calibration.ratios, name) for name in _RATIOS},
    }
    for name, scores in calibration.references.items():
        arrays[f"reference.{name}"] = scores
    tensors = {name: torch.from_numpy(np.array(a, order="C")) for name, a in arrays.items()}
    save_tensors(run / FILE, tensors, {"model": model, "facts": calibration.facts})


def calibrate(run: Path, detectors: Sequence[Detector], closed: Embeddings) -> None:
    """Calibrate a run after training; one with a single validation prompt stays without.

    Args:
        run: run folder.
        detectors: of the run, fitted.
        closed: the run's closed embeddings, which say what weights they are of.
    """
    if len(set(closed.select("val").groups.tolist())) > 1:
        save_calibration(run, Calibration.fit(closed, detectors), closed.run)


def load_calibration(
    run: Path, detectors: Sequence[Detector], closed: Embeddings, model: str
) -> Calibration:
    """The calibration that a run keeps, made now where it lacks a detector or is of old weights.

    Args:
        run: run folder.
        detectors: of the run, as `leaknet.scoring.run_embeddings.load_scorers` gives them.
        closed: the run's closed embeddings.
        model: sha256 of the run's weights.

    Raises:
        RunError: the file is damaged.
        ScoringError: there is nothing to calibrate on; see `Calibration.fit`.
    """
    if is_there(run / FILE):
        tensors, metadata = read_tensors(run / FILE, undefined=_ALWAYS[len(_ARRAYS) :])
        wanted = {*_ALWAYS, *(f"reference.{detector.name}" for detector in detectors)}
        if metadata.get("model") == model and wanted <= tensors.keys():
            return _restored(run / FILE, tensors, metadata.get("facts"), closed.classes)
    calibration = Calibration.fit(closed, detectors)
    save_calibration(run, calibration, model)
    return calibration


def _restored(
    path: Path, tensors: dict[str, Tensor], facts: Any, classes: tuple[str, ...]
) -> Calibration:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    images, unknown = arrays["conformity"].shape, arrays.keys() - {*_ALWAYS}
    shapes = {f"ratios.{name}": (len(classes),) for name in _RATIOS} | {"temperature": ()}
    if not arrays["evidence"].size:
        shapes["evidence"] = (0,)
    odd = [name for name, array in arrays.items() if array.shape != shapes.get(name, images)]
    other = [name for name in unknown if not name.startswith("reference.")]
    if odd or other or len(images) != 1 or not images[0] or not isinstance(facts, dict):
        raise RunError(f"{path} does not fit the run: delete it, or train again")

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return Calibration(
        classes,
        float(arrays["temperature"]),
        below("reference."),
        arrays["conformity"],
        arrays["confidence"],
        arrays["evidence"],
        ClassRatios(**below("ratios.")),
        facts,
    )


SEED = 0


def cut_in_halves(val: Embeddings, seed: int = SEED) -> tuple[Embeddings, Embeddings]:
    """The choosing and the calibrating half; a prompt group is in one of them, whole.

    Groups are dealt alternately, in an order drawn from the seed, among those that show the same
    generators; so both halves hold every generator as far as its groups allow. The calibrating
    half gets the odd one.

    Raises:
        ScoringError: fewer than two prompt groups.
    """
    calibrating = calibrating_images(val.groups, val.labels, seed)
    return val.take(~calibrating), val.take(calibrating)


def calibrating_images(
    groups: Shaped[np.ndarray, " image"], labels: Shaped[np.ndarray, " image"], seed: int = SEED
) -> Bool[np.ndarray, " image"]:
    """Which validation images are in the calibrating half; raises as `cut_in_halves`."""
    shown: defaultdict[str, set[str]] = defaultdict(set)
    for group, label in zip(groups.tolist(), labels.tolist(), strict=True):
        shown[group].add(label)
    if len(shown) < 2:
        raise ScoringError(
            f"the validation fold has {len(shown)} prompt group(s) and a calibration needs two: "
            "add validation images of other prompts, or name the groups in an index file"
        )
    order = sorted(shown, key=lambda group: (sorted(shown[group]), _draw(group, seed)))
    calibrating: np.ndarray = np.isin(groups, order[::2])
    return calibrating


def calibration_limits(
    groups: Shaped[np.ndarray, " image"], labels: Shaped[np.ndarray, " image"], alpha: float
) -> str:
    """What a calibration on these validation images cannot do, known before training; or empty.

    Args:
        groups: prompt group of each validation image.
        labels: its generator.
        alpha: the false-alarm rate that answers are given at.
    """
    try:
        images = int(calibrating_images(groups, labels).sum())
    except ScoringError as error:
        return f"{error}; without one, `leak score IMAGE` cannot answer"
    if alpha * (images + 1) >= 1:
        return ""
    return (
        f"only {images} calibration images: no image can be called unknown at a false-alarm rate "
        f"below {1 / (images + 1):.2g} (the default is {alpha:g}); add validation images"
    )


def choosing_half(val: Embeddings) -> Embeddings:
    """The half on which detectors choose their settings; all of a fold of one prompt group."""
    return cut_in_halves(val)[0] if len(set(val.groups.tolist())) > 1 else val


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
