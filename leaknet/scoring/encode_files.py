"""Image files to embeddings, without a cache: find, decode, encode and embed them.

The path is that of a cached image: same preprocessing, same rounding of the latent, and noise
that depends on the file's content alone, so that a file scores as its cached latent does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ImageError, RunError, WeightsError
from leakcache.images.canonical import canonicalise
from leakcache.images.decode import Preprocessing, decode, preprocess, to_unit_range
from leakcache.images.loader import in_order
from leakcache.images.preprocess import refuse_tiny
from leakcache.progress import track
from leakcache.statistics.activations import activation_statistics_of, look_at
from leakcache.statistics.pixels import statistics_of
from leakcache.store.derived import one_thread_each
from leakcache.store.manifest import Encoding
from leaknet.config import ACTIVATIONS, PIXELS, Z0
from leaknet.data.columns import ImageColumns
from leaknet.model.protoleaknet import ProtoLeakNet

Changes = Callable[[Image.Image], Sequence[Image.Image]]


@dataclass(frozen=True)
class EncodedFile:
    """One file, as far as it could be read.

    Attributes:
        path: the file.
        sha256: of its bytes; empty where they could not be read.
        columns: by name, those asked for: a row of the image, then one of each variant that was
            asked for; empty where refused.
        reason: why it is refused; empty where it is not.
    """

    path: Path
    sha256: str = ""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""


def encoding_of(model: ProtoLeakNet) -> Encoding:
    """How the latents were made that a run was trained on.

    Raises:
        RunError: the run does not say.
    """
    if model.cache is None:
        raise RunError(
            "the run does not say which autoencoder it was trained with: train it on a cache"
        )
    return model.cache.encoding


def load_encoder(encoding: Encoding, vae: str | None = None, device: str = "cpu") -> Encoder:
    """The autoencoder that a run was trained with.

    Args:
        encoding: the run's.
        vae: where the autoencoder lies now; where the run remembers it, if None.
        device: where to encode.

    Raises:
        WeightsError: it is not on this machine.
        RunError: it has other weights than then.
    """
    spec = vae or encoding.autoencoder.spec
    try:
        encoder = Encoder.load(spec, encoding.precision, device)
    except WeightsError as error:
        if vae is not None:
            raise
        raise WeightsError(
            f"the run's autoencoder {encoding.autoencoder.name} is not at {spec} any more: "
            "put it back, or say where it is with --vae"
        ) from error
    if encoder.identity.weights_sha256 != encoding.autoencoder.weights_sha256:
        raise RunError(
            f"{spec}: has other weights than when the run was trained; restore them, name the "
            "right ones with --vae, or build the cache and train again"
        )
    return encoder


def encode_files(
    encoder: Encoder,
    encoding: Encoding,
    paths: Sequence[Path],
    changes: Changes | None = None,
    *,
    columns: Collection[str],
) -> list[EncodedFile]:
    """Latents of files, in their order; what can't be used has a reason instead.

    Args:
        encoder: the run's.
        encoding: how the run's latents were made.
        paths: image files.
        changes: variants of each image to encode after it.
        columns: what is computed; see `leaknet.config.RunConfig.columns`.
    """
    encoded = []
    cut = encoding.preprocessing
    load = partial(_load, preprocessing=cut, changes=changes, columns=columns)
    with one_thread_each(), track("encoding", len(paths), "images") as advance:
        for path, loaded in zip(paths, in_order(load, paths), strict=True):
            if loaded.reason:
                encoded.append(EncodedFile(path, loaded.sha256, reason=loaded.reason))
            else:
                encoded.append(_encoded(encoder, encoding, path, loaded, columns))
            advance(1)
    return encoded


def as_split(files: Sequence[EncodedFile], fold: str, label: str) -> ImageColumns:
    """Encoded files as a split; each variant is a row of its own, under its image's noise.

    A file's stem is its prompt group, as in every folder of images.

    Args:
        files: those that were not refused, at least one.
        fold: of all of them.
        label: of all of them.
    """
    repeats = [len(next(iter(file.columns.values()))) for file in files]

    def column(values: list[str]) -> np.ndarray:
        return np.repeat(np.array(values, dtype=np.str_), repeats)

    return ImageColumns(
        labels=column([label] * len(files)),
        groups=column([file.path.stem for file in files]),
        folds=column([fold] * len(files)),
        hashes=column([file.sha256 for file in files]),
        paths=column([str(file.path) for file in files]),
        columns={
            name: torch.from_numpy(np.concatenate([file.columns[name] for file in files]))
            for name in files[0].columns
        },
    )


@dataclass(frozen=True)
class _Loaded:
    """A file's hash; of the image and each variant views, what is judged and its statistics."""

    sha256: str = ""
    pixels: Sequence[UInt8[np.ndarray, "view height width 3"]] = ()
    judged: Sequence[Image.Image] = ()
    statistics: Float[np.ndarray, "variant _ value"] | None = None
    reason: str = ""


def _load(
    path: Path, preprocessing: Preprocessing, changes: Changes | None, columns: Collection[str]
) -> _Loaded:
    try:
        data = path.read_bytes()
    except OSError as error:
        return _Loaded(reason=f"cannot be read ({error.strerror})")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data)
        refuse_tiny(image.size, preprocessing)
        variants = [image, *(changes(image) if changes else ())]
    except ImageError as error:
        return _Loaded(sha256, reason=str(error))
    views = [preprocess(variant, preprocessing) for variant in variants]
    if PIXELS not in columns:
        return _Loaded(sha256, views)
    judged = [_judged(variant, preprocessing) for variant in variants]
    statistics = np.stack([statistics_of(image) for image in judged])
    return _Loaded(sha256, views, judged if ACTIVATIONS in columns else (), statistics)


def _judged(image: Image.Image, cut: Preprocessing) -> Image.Image:
    """What statistics are taken of: on the canonical track, the canonical form."""
    return canonicalise(image, cut.canonical_size) if cut.canonical else image


def _encoded(
    encoder: Encoder,
    encoding: Encoding,
    path: Path,
    loaded: _Loaded,
    columns: Collection[str],
) -> EncodedFile:
    found: dict[str, np.ndarray] = {}
    if Z0 in columns:
        found[Z0] = np.stack([_encode(encoder, encoding, views) for views in loaded.pixels])
        if not np.isfinite(found[Z0]).all():
            reason = "the encoder gave latents that are not finite"
            return EncodedFile(path, loaded.sha256, reason=reason)
    try:
        seen = [activation_statistics_of(look_at(encoder, image)) for image in loaded.judged]
    except ImageError as error:
        return EncodedFile(path, loaded.sha256, reason=str(error))
    if loaded.statistics is not None:
        found[PIXELS] = loaded.statistics
    if seen:
        found[ACTIVATIONS] = np.stack(seen)
    return EncodedFile(path, loaded.sha256, found)


def _encode(
    encoder: Encoder, encoding: Encoding, views: UInt8[np.ndarray, "view height width 3"]
) -> Float[np.ndarray, "view channel rows columns"]:
    z0 = encoder.encode(torch.from_numpy(to_unit_range(views))).cpu().numpy()
    # Rounded as in the cache, so that a file scores as its cached latent does.
    rounded: Float[np.ndarray, "view channel rows columns"] = z0.astype(encoding.stored)
    return rounded
