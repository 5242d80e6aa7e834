"""Columns of images without a cache: of files, their bytes, Pillow images or arrays.

The path is that of a cached image: same decoder, same preprocessing, same rounding of the latent,
and noise that depends on the file's content alone, so that a file scores as its cached columns do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ImageError, RunError, WeightsError
from leakcache.images.archive import in_order, read_image
from leakcache.images.decode import Preprocessing, as_rgb, decoded
from leakcache.images.file_parts import DeclaredOrigin, declared_origin
from leakcache.images.preprocess import refuse_tiny
from leakcache.progress import Track, track
from leakcache.store.column import Column, ColumnComputer, DecodedImage, Prepared
from leakcache.store.columns import COLUMNS, columns_named
from leakcache.store.manifest import Encoding
from leaknet.data.columns import ImageColumns
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.scores import ImageFacts

AHEAD = 8
"""Files that are decoded ahead of the encoder at most."""

Changes = Callable[[Image.Image], Sequence[Image.Image]]
Source = str | Path | bytes | Image.Image | np.ndarray
"""An image: a file, the bytes of one, pixels in Pillow, or an array of 8-bit grey or RGB."""


@dataclass(frozen=True)
class EncodedFile:
    """One file, as far as it could be read.

    Attributes:
        path: the file, or the name of an image that is no file.
        sha256: of the file's bytes, else of the pixels; empty where refused.
        columns: by name, those asked for: a row of the image, then one of each variant that was
            asked for; empty where refused.
        reason: why it is refused; empty where it is not.
        facts: texture, size and compression of the image.
        origin: what the file says of its origin; None where it says nothing, or is no file.
    """

    path: Path
    sha256: str = ""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""
    facts: ImageFacts = field(default_factory=ImageFacts)
    origin: DeclaredOrigin | None = None


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


def load_encoder(
    encoding: Encoding, vae: str | Encoder | None = None, device: str = "cpu"
) -> Encoder:
    """The autoencoder that a run was trained with.

    Args:
        encoding: the run's.
        vae: where the autoencoder lies now, or one that is loaded; where the run remembers it, if
            None.
        device: where to encode.

    Raises:
        WeightsError: it is not on this machine.
        RunError: it has other weights than then.
    """
    loaded = vae if isinstance(vae, Encoder) else None
    spec = loaded.identity.spec if loaded else str(vae or encoding.autoencoder.spec)
    try:
        encoder = loaded or Encoder.load(spec, encoding.precision, device, encoding.runtime)
    except WeightsError as error:
        if vae is not None:
            raise
        raise WeightsError(
            f"the run's autoencoder {encoding.autoencoder.name} is not at {spec} any more: "
            "put it back, or say where it is with --vae"
        ) from error
    if not encoder.identity.same_as(encoding.autoencoder):
        raise RunError(
            f"{spec}: has other weights than when the run was trained; restore them, name the "
            "right ones with --vae, or build the cache and train again"
        )
    return encoder


def encode_files(
    encoder: Encoder,
    encoding: Encoding,
    images: Sequence[Source],
    changes: Changes | None = None,
    *,
    columns: Collection[str],
    names: Sequence[str] | None = None,
    progress: Track = track,
) -> list[EncodedFile]:
    """Columns of images, in their order; what cannot be used has a reason instead.

    Args:
        encoder: the run's.
        encoding: how the run's latents were made.
        images: files, or what else `Source` allows.
        changes: variants of each image to compute after it.
        columns: what is computed; see `leaknet.config.RunConfig.columns`.
        names: of the images; see `name_of` without.
        progress: shows progress.
    """
    wanted = columns_named(columns)
    compute = ColumnComputer(wanted, encoding, encoder)
    load = partial(_load, cut=encoding.preprocessing, changes=changes, columns=wanted)
    encoded = []
    names = names or [name_of(image, row) for row, image in enumerate(images, 1)]
    with progress("encoding", len(images), "images") as advance:
        for name, loaded in zip(names, in_order(load, images, ahead=AHEAD), strict=True):
            encoded.append(_encoded(compute, Path(name), loaded))
            advance(1)
    return encoded


def name_of(image: Source, number: int) -> str:
    """Path of a file, also of one that Pillow opened; `image NUMBER` for other images."""
    if isinstance(image, str | Path):
        return str(image)
    return str(getattr(image, "filename", "") or f"image {number}")


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
    """A file's hash, the views of the image and of each variant, its facts and declared origin."""

    sha256: str = ""
    variants: Sequence[Prepared] = ()
    reason: str = ""
    facts: ImageFacts = field(default_factory=ImageFacts)
    origin: DeclaredOrigin | None = None


@contextmanager
def opened_source(
    image: Source,
) -> Iterator[tuple[str, Image.Image, ImageFacts, DeclaredOrigin | None]]:
    """SHA-256, decoded pixels, facts and declared origin; raises ImageError."""
    if isinstance(image, str | Path):
        try:
            image = read_image(Path(image))
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror})") from error
    if isinstance(image, bytes):
        with decoded(image) as pixels:
            sha256 = hashlib.sha256(image).hexdigest()
            yield sha256, pixels, ImageFacts.of(pixels, image), declared_origin(image)
    else:
        pixels = as_rgb(image)
        content = f"{pixels.width}x{pixels.height} RGB\n".encode() + pixels.tobytes()
        yield hashlib.sha256(content).hexdigest(), pixels, ImageFacts.of(pixels), None


def _load(
    source: Source, cut: Preprocessing, changes: Changes | None, columns: Sequence[Column]
) -> _Loaded:
    try:
        with opened_source(source) as (sha256, image, facts, origin):
            refuse_tiny(image.size, cut)
            variants = [image, *(changes(image) if changes else ())]
            found = [DecodedImage.of(variant, sha256, cut) for variant in variants]
            views = [{column.name: column.views(one) for column in columns} for one in found]
            return _Loaded(sha256, views, facts=facts, origin=origin)
    except ImageError as error:
        return _Loaded(reason=str(error))


def _encoded(compute: ColumnComputer, path: Path, loaded: _Loaded) -> EncodedFile:
    if loaded.reason:
        return EncodedFile(path, loaded.sha256, reason=loaded.reason)
    rows: list[dict[str, np.ndarray]] = []
    for row in compute(loaded.variants):
        if isinstance(row, str):
            return EncodedFile(path, loaded.sha256, reason=row)
        rows.append(row)
    columns = {name: COLUMNS[name].read(np.stack([row[name] for row in rows])) for name in rows[0]}
    return EncodedFile(path, loaded.sha256, columns, facts=loaded.facts, origin=loaded.origin)
