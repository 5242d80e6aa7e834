"""Columns of images in memory: every view is encoded once, in batches of views of one size."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from leakcache.columns.column import Column, View, ViewValues
from leakcache.encoder.autoencoder import Activations, Encoder
from leakcache.images.loader import THREADS
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_features import pixel_statistics
from leakcache.store.manifest import Encoding

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
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as executor:
            pending = [
                (batch, executor.submit(_pixel_values, batch, parts))
                for parts, group in _by(requests.values(), lambda view: view.statistic_parts)
                for batch in _batches(group, 1)
            ]
            self._encode(list(requests.values()), executor)
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

    def _encode(self, requests: list[_Request], executor: ThreadPoolExecutor) -> None:
        """Latents and activations, from one forward pass of each view."""
        plain = [r for r in requests if r.view.latent and not r.view.activation_parts]
        groups = [(0, plain), *_by(requests, lambda view: view.activation_parts)]
        waiting: list[tuple[list[_Request], Future[list[np.ndarray]]]] = []
        at_once = 1 if self._encoder.device.type == "cpu" else BATCH
        for parts, group in groups:
            for batch in _batches(group, at_once):
                pixels = torch.from_numpy(np.stack([request.view.pixels for request in batch]))
                if parts:
                    latents, maps = self._encoder.encode_with_activations(pixels)
                    waiting.append((batch, executor.submit(_activation_values, maps, parts)))
                else:
                    latents = self._encoder.encode_bytes(pixels)
                if self._measure_error and self.relative_error is None:
                    self.relative_error = self._encoder.relative_error(pixels[:1])
                for request, latent in zip(batch, latents.cpu().numpy(), strict=True):
                    request.values = replace(request.values, latent=latent)
                if len(waiting) > 2:  # activations are large
                    _take(*waiting.pop(0))
        for batch, future in waiting:
            _take(batch, future)

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


def _take(batch: list[_Request], future: Future[list[np.ndarray]]) -> None:
    for request, rows in zip(batch, future.result(), strict=True):
        request.values = replace(request.values, activations=rows)


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


def _pixel_values(batch: list[_Request], parts: int) -> list[np.ndarray]:
    pixels = torch.from_numpy(np.stack([request.view.pixels for request in batch]))
    return list(pixel_statistics(pixels, parts).numpy())


def _activation_values(maps: Activations, parts: int) -> list[np.ndarray]:
    return list(activation_statistics(maps, parts).cpu().numpy())
