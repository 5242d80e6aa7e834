"""One pass over image files: read, hashed and decoded once, all wanted columns filled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from leakcache.columns.column import Column, DecodedImage, View
from leakcache.columns.compute import IMAGES, ColumnComputer
from leakcache.columns.spec import ColumnSpec, decoder_versions
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ImageError
from leakcache.files import read_bytes
from leakcache.images.decode import FILE_LIMIT, VERSION, Preprocessing, bands, decoded
from leakcache.images.loader import in_order
from leakcache.images.preprocess import refuse_tiny
from leakcache.progress import Advance
from leakcache.store.column_store import ColumnStore
from leakcache.store.manifest import Encoding

AHEAD = 16
"""Images that are decoded ahead of the encoder at most."""
AHEAD_BYTES = 2**28
"""Bytes of latent views in flight at most: bounds memory for large and many views."""


@dataclass(frozen=True)
class ImageFile:
    """A file to read.

    Attributes:
        path: where it lies.
        training: whether it has the columns of training images.
    """

    path: Path
    training: bool


@dataclass(frozen=True)
class ReadFile:
    """A file that was read.

    Attributes:
        sha256: hash of its bytes; empty where they could not be read.
        size: its length in bytes.
        reason: why the image is refused; empty where it is not.
        pixels: hash of its decoded pixels; empty where they are not known.
    """

    sha256: str
    size: int
    reason: str = ""
    pixels: str = ""


@dataclass(frozen=True)
class _Decoded:
    """A read file with the views of the columns that it lacks."""

    file: ReadFile
    views: Mapping[str, Sequence[View]] = field(default_factory=dict)


@dataclass
class _Unit:
    """Images that lack the same columns and are stored together."""

    columns: tuple[Column, ...]
    size: int
    taken: int = 0
    waiting: list[_Decoded] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, str] = field(default_factory=dict)


class OnePass:
    """Fills columns of a store from image files; use it inside `ColumnStore.writing`.

    Attributes:
        computed: number of images by the column that was computed of them.
        images: number of images of which something was computed.
    """

    def __init__(
        self,
        store: ColumnStore,
        columns: Sequence[Column],
        encoding: Encoding,
        encoder: Encoder,
        advance: Advance,
    ) -> None:
        self.computed = {column.name: 0 for column in columns}
        self.images = 0
        self._store, self._columns, self._encoding = store, columns, encoding
        self._specs = {column.name: column.spec(encoding) for column in columns}
        self._rules = _rules(encoding, self._specs.values())
        self._compute = ColumnComputer(columns, encoding, encoder, measure_error=True)
        self._advance = advance
        self._claimed: set[str] = set()
        self._units: dict[tuple[str, ...], _Unit] = {}
        self._at_once = min(IMAGES, images_ahead(encoding.preprocessing))

    @property
    def relative_error(self) -> float | None:
        """Of reduced precision; see `ColumnComputer`."""
        return self._compute.relative_error

    def run(self, files: Iterable[ImageFile]) -> list[ReadFile]:
        """Read all files and store what their images lack; returns what was read, in order."""
        found = []
        refused: dict[str, str] = {}
        self._claimed.clear()
        ahead = images_ahead(self._encoding.preprocessing)
        with closing(in_order(self._load, files, ahead)) as loaded:
            for image in loaded:
                found.append(image.file)
                if image.file.reason and image.file.sha256:
                    refused[image.file.sha256] = image.file.reason
                self._take(image)
        for unit in self._units.values():
            self._compute_waiting(unit)
            self._flush(unit)
        known, pixels = self._store.refused(self._rules), self._store.pixels
        if new := {key: reason for key, reason in refused.items() if key not in known}:
            self._store.append([], [], [], refused=new, rules=self._rules)
            known = self._store.refused(self._rules)
        return [
            replace(f, reason=f.reason or known.get(f.sha256, ""), pixels=pixels.get(f.sha256, ""))
            for f in found
        ]

    def _load(self, file: ImageFile) -> _Decoded:
        try:
            data = read_bytes(file.path, FILE_LIMIT)
        except OSError as error:
            return _Decoded(ReadFile("", 0, f"cannot be read ({error.strerror or error})"))
        sha256 = hashlib.sha256(data).hexdigest()
        if reason := self._store.refused(self._rules).get(sha256):
            return _Decoded(ReadFile(sha256, len(data), reason))
        lacking = [
            column
            for column in self._columns
            if (file.training or not column.training_only)
            and not self._store.has(self._specs[column.name], sha256)
        ]
        if not lacking:
            return _Decoded(ReadFile(sha256, len(data)))
        try:
            with decoded(data) as whole:
                refuse_tiny(whole.size, self._encoding.preprocessing)
                image = DecodedImage.of(whole, sha256, self._encoding.preprocessing)
                views = {column.name: column.views(image) for column in lacking}
                pixels = _pixels_hash(whole)
        except ImageError as error:
            return _Decoded(ReadFile(sha256, len(data), str(error)))
        return _Decoded(ReadFile(sha256, len(data), pixels=pixels), views)

    def _take(self, image: _Decoded) -> None:
        sha256 = image.file.sha256
        if not image.views or sha256 in self._claimed:
            self._advance(1)
            return
        self._claimed.add(sha256)
        names = tuple(image.views)
        if names not in self._units:
            size = min(self._specs[name].per_shard for name in names)
            columns = tuple(column for column in self._columns if column.name in names)
            self._units[names] = _Unit(columns, size)
        unit = self._units[names]
        unit.waiting.append(image)
        unit.taken += 1
        if len(unit.waiting) == self._at_once or unit.taken == unit.size:
            self._compute_waiting(unit)
        if unit.taken == unit.size:
            self._flush(unit)

    def _compute_waiting(self, unit: _Unit) -> None:
        results = self._compute([image.views for image in unit.waiting])
        for image, result in zip(unit.waiting, results, strict=True):
            if isinstance(result, str):
                unit.refused[image.file.sha256] = result
            else:
                unit.images.append(image.file.sha256)
                unit.pixels[image.file.sha256] = image.file.pixels
                unit.rows.append(result)
        self._advance(len(unit.waiting))
        unit.waiting.clear()

    def _flush(self, unit: _Unit) -> None:
        if unit.images or unit.refused:
            columns = unit.columns if unit.images else ()
            specs = [self._specs[column.name] for column in columns]
            values = [np.stack([row[spec.name] for row in unit.rows]) for spec in specs]
            self._store.append(
                specs,
                unit.images,
                values,
                refused=dict(unit.refused),
                rules=self._rules,
                pixels=dict(unit.pixels),
            )
            self.images += len(unit.images)
            for spec in specs:
                self.computed[spec.name] += len(unit.images)
        unit.taken = 0
        for kept in (unit.images, unit.rows, unit.refused, unit.pixels):
            kept.clear()


def images_ahead(preprocessing: Preprocessing) -> int:
    """How many images to decode ahead of the encoder."""
    views = preprocessing.views * preprocessing.size**2 * 3
    return max(2, min(AHEAD, AHEAD_BYTES // views))


def _pixels_hash(image: Image.Image) -> str:
    digest = hashlib.sha256(repr(image.size).encode())
    for _, band in bands(image):
        digest.update(band.tobytes())
    return digest.hexdigest()


def _rules(encoding: Encoding, specs: Iterable[ColumnSpec]) -> str:
    """Hash of all that decides whether an image is refused: it is tried again under others."""
    columns = sorted(spec.fingerprint for spec in specs)
    content = [VERSION, dict(decoder_versions()), encoding.fingerprint, columns]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
