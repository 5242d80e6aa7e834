"""Columns of images in memory: every view is encoded once, in batches of views of one size."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from threadpoolctl import threadpool_limits
from torch import Tensor

from leakcache.columns.column import Column, View, ViewValues
from leakcache.device import to_device, torch_threads
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.archive import THREADS
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_features import pixel_statistics
from leakcache.store.manifest import Encoding

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
