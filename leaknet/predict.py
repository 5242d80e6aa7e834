"""Score images straight from files: encode, embed, attribute, and say whether it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax

from leakcache.autoencoder import Encoder
from leakcache.errors import DataError, RunError
from leakcache.images import to_unit_range
from leakcache.index import read_index
from leakcache.loader import LoadedImage, in_order, load_image
from leakcache.manifest import Encoding
from leakcache.progress import track
from leaknet.detectors import Detector
from leaknet.embed import embed
from leaknet.embeddings import Embeddings
from leaknet.latents import SplitLatents
from leaknet.model import ProtoLeakNet


@dataclass(frozen=True)
class ImageScore:
    """What is said of one file.

    Attributes:
        path: the file.
        reason: why it could not be scored; empty where it was.
        generator: the likeliest known generator.
        probability: the softmax of its logit, over the known generators only.
        scores: raw score by detector, higher = more like the known.
        p_value: share of closed validation images that look no more like the known ones than
            this one (the reported detector); small means unlike anything known.
        known: whether the p-value exceeds the false-alarm rate that was asked for.
    """

    path: str
    reason: str = ""
    generator: str = ""
    probability: float = float("nan")
    scores: dict[str, float] | None = None
    p_value: float = float("nan")
    known: bool | None = None


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files as named, and every image below folders as named, in order.

    Raises:
        DataError: something named does not exist, or nothing was found.
    """
    paths: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            index = read_index(path, open_set=True)
            paths += [index.root / record.path for record in index.records]
        elif path.exists():
            paths.append(path)
        else:
            raise DataError(f"{argument}: no such file or folder")
    if not paths:
        raise DataError(f"{', '.join(arguments)}: no images found")
    return paths


def predict(
    model: ProtoLeakNet,
    paths: Sequence[Path],
    detectors: Sequence[Detector],
    validation: Embeddings,
    *,
    alpha: float = 0.05,
    device: str = "cpu",
) -> list[ImageScore]:
    """Score files by the same functions that scored the test fold.

    Args:
        model: a trained run's model.
        paths: image files.
        detectors: fitted ones; the first decides.
        validation: closed validation embeddings, against which the p-value is taken.
        alpha: rate at which images of known generators may be called unknown.
        device: where to encode.

    Raises:
        WeightsError: the autoencoder of the run is not on this machine.
        RunError: it is there with other weights.
    """
    if model.cache is None:
        raise RunError("the run does not say which autoencoder it was trained with")
    encoding = model.cache.encoding
    images, latents = _encode(_load_encoder(encoding, device), encoding, paths)
    usable = [row for row, image in enumerate(images) if not image.reason]
    results = [
        ImageScore(str(path), image.reason) for path, image in zip(paths, images, strict=True)
    ]
    if not usable:
        return results
    embedded = embed(model, _split(paths, images, latents, usable))
    probabilities = softmax(embedded.logits.astype(np.float64), axis=1)
    scores = {detector.name: detector.score_samples(embedded) for detector in detectors}
    reference = detectors[0].score_samples(validation)
    p_values = conformal_p_values(reference, scores[detectors[0].name])
    for place, row in enumerate(usable):
        best = int(embedded.logits[place].argmax())
        results[row] = ImageScore(
            path=str(paths[row]),
            generator=model.classes[best],
            probability=float(probabilities[place, best]),
            scores={name: float(values[place]) for name, values in scores.items()},
            p_value=float(p_values[place]),
            known=bool(p_values[place] > alpha),
        )
    return results


def conformal_p_values(
    reference: Float[np.ndarray, "validation"], scores: Float[np.ndarray, "image"]
) -> Float[np.ndarray, "image"]:
    """(1 + number of reference scores that are no higher) / (1 + number of references).

    For exchangeable images P(p ≤ α) ≤ α, whatever the detector (Vovk et al. 2005).
    """
    ranks = np.searchsorted(np.sort(reference), scores, side="right")
    p_values: np.ndarray = (1.0 + ranks) / (1.0 + len(reference))
    return p_values


def _load_encoder(encoding: Encoding, device: str) -> Encoder:
    encoder = Encoder.load(encoding.autoencoder.spec, encoding.precision, device)
    if encoder.identity.weights_sha256 != encoding.autoencoder.weights_sha256:
        raise RunError(
            f"{encoding.autoencoder.spec}: has other weights than when the run was trained; "
            "restore them, or build the cache and train again"
        )
    return encoder


def _encode(
    encoder: Encoder, encoding: Encoding, paths: Sequence[Path]
) -> tuple[list[LoadedImage], list[np.ndarray]]:
    """Files as loaded, without their pixels, and the latents of those that could be."""
    images, latents = [], []
    with track("scoring", len(paths), "images") as advance:
        loaded = in_order(lambda path: load_image(path, encoding.preprocessing, ()), paths)
        for image in loaded:
            if image.pixels is not None:
                z0 = encoder.encode(torch.from_numpy(to_unit_range(image.pixels)))
                # Rounded as in the cache, so that a file scores as its cached latent does.
                latents.append(z0.cpu().numpy().astype(encoding.stored))
            images.append(LoadedImage(image.sha256, image.size, None, image.reason))
            advance(1)
    return images, latents


def _split(
    paths: Sequence[Path],
    images: Sequence[LoadedImage],
    latents: Sequence[np.ndarray],
    usable: Sequence[int],
) -> SplitLatents:
    names = np.array([str(paths[row]) for row in usable])
    return SplitLatents(
        z0=torch.from_numpy(np.stack(latents)),
        labels=np.full(len(usable), "?"),
        groups=names,
        folds=np.full(len(usable), "open"),
        hashes=np.array([images[row].sha256 for row in usable]),
        paths=names,
    )
