"""What a column is: its spec, the views of an image that it reads, and its values of these.

`ColumnComputer` computes columns of images in memory: every view is encoded once, in batches of
views of one size.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor

from leakcache.device import to_device, torch_threads
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.archive import THREADS
from leakcache.images.decode import Preprocessing, preprocess
from leakcache.images.degrade import degrade
from leakcache.images.preprocess import (
    MAX_SIDE,
    canonicalise,
    enlarged_view,
    native_view,
    reduced_view,
)
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_features import pixel_statistics
from leakcache.store.manifest import Encoding
from leakcache.store.zarr_column import ColumnSpec

CHAINS = ((2, 102),)
"""Operations and seed of each degraded copy but the last, which is canonical."""
MAX_DEGRADED_SIDE = 2 * MAX_SIDE
"""Longest side of the part of an image that is degraded: bounds its cost."""

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class View:
    """Pixels that a column reads, and what it reads of them besides.

    Attributes:
        pixels: of the view.
        latent: whether z0 is read.
        activation_parts: of how many parts statistics of activations are read; 0 for none.
        statistic_parts: the same for statistics of pixels.
    """

    pixels: Pixels
    latent: bool = False
    activation_parts: int = 0
    statistic_parts: int = 0


@dataclass(frozen=True)
class ViewValues:
    """What was computed of one view; None where it was not asked for."""

    pixels: Pixels
    latent: Float32[np.ndarray, "channel rows columns"] | None = None
    activations: Float[np.ndarray, "part entry"] | None = None
    statistics: Float[np.ndarray, "portion value"] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An RGB image and its views, each cut once.

    Attributes:
        image: on the canonical track its canonical form.
        sha256: of its file, in hexadecimal; decides how copies are degraded.
        preprocessing: of the views that latents are encoded from.
    """

    image: Image.Image
    sha256: str
    preprocessing: Preprocessing

    @classmethod
    def of(cls, image: Image.Image, sha256: str, preprocessing: Preprocessing) -> DecodedImage:
        """The image on its track."""
        if preprocessing.canonical:
            image = canonicalise(image, preprocessing.canonical_size)
            plain = Preprocessing(preprocessing.name, preprocessing.size, preprocessing.views)
            return cls(image, sha256, plain)
        return cls(image, sha256, preprocessing)

    @cached_property
    def latent_views(self) -> UInt8[np.ndarray, "view size size 3"]:
        """What latents are encoded from."""
        return preprocess(self.image, self.preprocessing)

    @cached_property
    def native(self) -> Pixels:
        """The centre at native resolution."""
        return native_view(self.image)

    @cached_property
    def reduced(self) -> Pixels:
        """The native view at the one size of all images."""
        return reduced_view(self.native)

    @cached_property
    def enlarged(self) -> Pixels:
        """The reduced view, enlarged for the encoder."""
        return enlarged_view(self.reduced)

    @cached_property
    def copies(self) -> tuple[DecodedImage, ...]:
        """Degraded copies: WILD-like ones, then the canonical form.

        Their operations depend on the image's hash and on seeds that no evaluation uses.
        """
        part = Image.fromarray(native_view(self.image, MAX_DEGRADED_SIDE))
        copies = [degrade(part, step, seed, self.sha256)[0] for step, seed in CHAINS]
        return tuple(
            DecodedImage(copy, self.sha256, self.preprocessing)
            for copy in (*copies, canonicalise(self.image))
        )


class Column(ABC):
    """One column of a cache.

    Attributes:
        name: in the table of columns.
        training_only: whether images of the training fold alone have it.
    """

    name: str
    training_only = False

    @abstractmethod
    def spec(self, encoding: Encoding) -> ColumnSpec:
        """Shape, type and settings of its values in a cache of this encoding."""

    @abstractmethod
    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """What it reads of an image."""

    @abstractmethod
    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """The values of an image, from those of its views, in their order."""

    def stored(self, values: np.ndarray, spec: ColumnSpec) -> np.ndarray:
        """What is stored of an image's values, of the spec's shape and type."""
        with np.errstate(over="ignore"):
            return values.astype(spec.dtype)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Values of images from what is stored of them."""
        return stored


def on_track(spec: ColumnSpec, canonical_size: int | None) -> ColumnSpec:
    """The spec with the settings of the canonical track; itself where that is not taken."""
    if canonical_size is None:
        return spec
    return spec.with_settings(canonical=canonical_size)


ENCODERS = 4
"""Views that are encoded at the same time on a CPU, where the threads of one pass wait for one
another after each layer."""
BATCH = 8
"""Views of 256 × 256 pixels that are computed at once on a GPU, fewer of larger ones.

On a CPU one at a time: batches are no faster there, and no value depends on the other images."""
IMAGES = 8
"""Images whose columns are computed at once: bounds the memory of a build."""

Prepared = Mapping[str, Sequence[View]]
"""Views of one image, by the name of the column that reads them."""
Key = tuple[tuple[int, ...], bytes]


@dataclass
class _Request:
    """A view and what has been computed of it."""

    view: View
    values: ViewValues


class ColumnComputer:
    """Computes columns of a few images at a time.

    Attributes:
        relative_error: root mean square error of reduced precision over that of the latents, on
            the first view that was encoded; None at full precision or where it is not measured.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        encoding: Encoding,
        encoder: Encoder,
        *,
        measure_error: bool = False,
    ) -> None:
        self.relative_error: float | None = None
        self._measure_error = measure_error and encoder.precision != "fp32"
        self._columns = {column.name: column for column in columns}
        self._specs = {column.name: column.spec(encoding) for column in columns}
        self._encoder = encoder
        self._at_once = 1 if encoder.device.type == "cpu" else BATCH

    def __call__(self, images: Sequence[Prepared]) -> list[dict[str, np.ndarray] | str]:
        """What is stored of each image, by column; a reason where it is refused.

        Every distinct view goes through the encoder once, whatever columns and images have it.
        """
        requests: dict[Key, _Request] = {}
        keys = [
            {name: [self._ask(requests, view) for view in views] for name, views in image.items()}
            for image in images
        ]
        # The threads share the cores already: more of them inside BLAS would only slow them down.
        device = self._encoder.device
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as executor:
            pending = [
                (batch, executor.submit(_pixel_values, batch, parts, device))
                for parts, group in _by(requests.values(), lambda view: view.statistic_parts)
                for batch in _batches(group, self._at_once)
            ]
            self._encode(list(requests.values()))
            for batch, future in pending:
                for request, row in zip(batch, future.result(), strict=True):
                    request.values = replace(request.values, statistics=row)
        return [self._rows(image, requests) for image in keys]

    def _ask(self, requests: dict[Key, _Request], view: View) -> Key:
        """Merge a view with an equal one that is asked for already."""
        content = hashlib.blake2b(np.ascontiguousarray(view.pixels).data).digest()
        key = (view.pixels.shape, content)
        if key not in requests:
            requests[key] = _Request(view, ViewValues(view.pixels))
        else:
            known = requests[key].view
            requests[key].view = View(
                view.pixels,
                known.latent or view.latent,
                max(known.activation_parts, view.activation_parts),
                max(known.statistic_parts, view.statistic_parts),
            )
        return key

    def _encode(self, requests: list[_Request]) -> None:
        """Latents and activations, from one forward pass of each view."""
        plain = [r for r in requests if r.view.latent and not r.view.activation_parts]
        groups = [(0, plain), *_by(requests, lambda view: view.activation_parts)]
        batches = [
            (batch, parts) for parts, group in groups for batch in _batches(group, self._at_once)
        ]
        if self._measure_error and self.relative_error is None and batches:
            self.relative_error = self._encoder.relative_error(_pixels(batches[0][0][:1]))
        encoders = min(ENCODERS, THREADS) if self._at_once == 1 else 1
        threads = max(1, torch.get_num_threads() // encoders)
        with ThreadPoolExecutor(encoders) as executor:
            pending = [executor.submit(self._encoded, *each, threads) for each in batches]
            for (batch, _), future in zip(batches, pending, strict=True):
                for request, (latent, activations) in zip(batch, future.result(), strict=True):
                    values = replace(request.values, latent=latent, activations=activations)
                    request.values = values

    def _encoded(
        self, batch: list[_Request], parts: int, threads: int
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Latent and statistics of activations of each view, on so many threads."""
        with torch_threads(threads):
            if not parts:
                found = self._encoder.encode_bytes(_pixels(batch)).cpu().numpy()
                return [(latent, None) for latent in found]
            latents, maps = self._encoder.encode_with_activations(_pixels(batch))
            rows = activation_statistics(maps, parts).cpu().numpy()
            return list(zip(latents.cpu().numpy(), rows, strict=True))

    def _rows(
        self, keys: Mapping[str, Sequence[Key]], requests: Mapping[Key, _Request]
    ) -> dict[str, np.ndarray] | str:
        rows = {}
        for name, own in keys.items():
            column = self._columns[name]
            values = column.values([requests[key].values for key in own])
            rows[name] = column.stored(values, self._specs[name])
            if not np.isfinite(column.read(rows[name])).all():
                return f"its {name} is not finite in {self._encoder.precision}"
        return rows


def _batches(requests: Sequence[_Request], at_once: int) -> list[list[_Request]]:
    """Requests of one size, at most `at_once` of 256 × 256 pixels, fewer of larger ones."""
    by_shape: dict[tuple[int, ...], list[_Request]] = defaultdict(list)
    for request in requests:
        by_shape[request.view.pixels.shape].append(request)
    found = []
    for (height, width, _), group in by_shape.items():
        size = max(1, min(at_once, at_once * 256 * 256 // (height * width)))
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def _by(
    requests: Iterable[_Request], parts: Callable[[View], int]
) -> list[tuple[int, list[_Request]]]:
    """Requests that have parts, by their number."""
    found: dict[int, list[_Request]] = defaultdict(list)
    for request in requests:
        if parts(request.view):
            found[parts(request.view)].append(request)
    return list(found.items())


def _pixels(batch: list[_Request]) -> UInt8[Tensor, "view height width 3"]:
    return torch.from_numpy(np.stack([request.view.pixels for request in batch]))


def _pixel_values(batch: list[_Request], parts: int, device: torch.device) -> list[np.ndarray]:
    return list(pixel_statistics(to_device(_pixels(batch), device), parts).cpu().numpy())
