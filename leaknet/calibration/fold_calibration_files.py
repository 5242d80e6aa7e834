"""calibration.safetensors: the calibration of a run, as tensors beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leaknet.calibration.calibration import Calibration
from leaknet.calibration.likelihood_ratio import ClassRatios
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.files import read_tensors, save_tensors

FILE = "calibration.safetensors"
_RATIOS = tuple(field.name for field in fields(ClassRatios))


def save_calibration(run: Path, calibration: Calibration, model: str) -> None:
    """Write the calibration into a run folder; `model` is the sha256 of the run's weights."""
    arrays = {
        "temperature": np.array(calibration.temperature),
        "conformity": calibration.conformity,
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
        detectors: of the run, as `leaknet.scoring.fitted_detectors.load_scorers` gives them.
        closed: the run's closed embeddings.
        model: sha256 of the run's weights.

    Raises:
        RunError: the file is damaged.
        ScoringError: there is nothing to calibrate on; see `Calibration.fit`.
    """
    if (run / FILE).is_file():
        tensors, metadata = read_tensors(run / FILE)
        wanted = {f"reference.{detector.name}" for detector in detectors}
        if metadata.get("model") == model and wanted <= tensors.keys():
            return _restored(tensors, metadata["facts"], closed.classes)
    calibration = Calibration.fit(closed, detectors)
    save_calibration(run, calibration, model)
    return calibration


def _restored(
    tensors: dict[str, Tensor], facts: dict[str, Any], classes: tuple[str, ...]
) -> Calibration:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return Calibration(
        classes,
        float(arrays["temperature"]),
        below("reference."),
        arrays["conformity"],
        ClassRatios(**below("ratios.")),
        facts,
    )
