"""The detectors of a run: fitted on its closed embeddings, kept as tensors beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from leakcache.errors import RunError, ScoringError
from leaknet.calibration.calibration import choosing_half
from leaknet.checksums import is_there
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import DETECTORS, Detector, GlobalKDE
from leaknet.files import read_tensors, save_tensors

FILE = "scorers.safetensors"


def detectors_named(names: Sequence[str]) -> tuple[type[Detector], ...]:
    """The detectors of these names, the reported one first: KDE, else the first named.

    `all` stands for every one. Which is reported is thereby fixed before any open image is scored.

    Raises:
        ScoringError: a name is not among them.
    """
    known = {detector.name: detector for detector in DETECTORS}
    if "all" in names:
        names = tuple(known)
    for name in names:
        if name not in known:
            raise ScoringError(f"--detectors {name}: take some of {', '.join(known)}, or all")
    found = (known[name] for name in names)
    return tuple(sorted(found, key=lambda kind: kind is not GlobalKDE))


def fit_all(kinds: Sequence[type[Detector]], closed: Embeddings) -> list[Detector]:
    """Fit each detector on the training fold and the choosing half of the validation fold.

    The other half is left for p-values, which count images that had no say in the score.
    """
    train, val = closed.select("train"), choosing_half(closed.select("val"))
    return [kind().fit(train, val) for kind in kinds]


def save_scorers(run: Path, detectors: Sequence[Detector], model: str) -> None:
    """Write `scorers.safetensors`; detectors of the same model that were there already stay.

    Args:
        run: run folder.
        detectors: fitted ones.
        model: sha256 of the weights whose embeddings they were fitted on.
    """
    tensors = {}
    if is_there(run / FILE):
        kept, metadata = read_tensors(run / FILE)
        tensors = kept if metadata.get("model") == model else {}
    for detector in detectors:
        for name, array in detector.state().items():
            tensors[f"{detector.name}.{name}"] = torch.from_numpy(np.asarray(array))
    save_tensors(run / FILE, tensors, {"model": model})


def load_scorers(
    run: Path, kinds: Sequence[type[Detector]], known: Embeddings, model: str
) -> list[Detector]:
    """Fitted detectors of a run; those that it does not hold are fitted now and kept.

    Args:
        run: run folder.
        kinds: which.
        known: the run's closed embeddings, for those that are missing.
        model: sha256 of the weights.
    """
    tensors: dict[str, torch.Tensor] = {}
    if is_there(run / FILE):
        kept, metadata = read_tensors(run / FILE)
        tensors = kept if metadata.get("model") == model else {}
    detectors = []
    for kind in kinds:
        prefix = f"{kind.name}."
        state = {
            k.removeprefix(prefix): v.numpy() for k, v in tensors.items() if k.startswith(prefix)
        }
        try:
            detectors.append(kind.from_state(state) if state else fit_all([kind], known)[0])
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise RunError(f"{run / FILE} does not fit {kind.name}: delete it") from error
        if not state:
            save_scorers(run, detectors[-1:], model)
    return detectors
