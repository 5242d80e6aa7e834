"""One pass over image files: read, hashed and decoded once, all wanted columns filled."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ImageError
from leakcache.images.archive import in_order, read_image
from leakcache.images.decode import VERSION, Preprocessing, decoded, pixels_hash
from leakcache.images.preprocess import refuse_tiny
from leakcache.processes import release_freed_memory
from leakcache.progress import Advance
from leakcache.store.column import IMAGES, Column, ColumnComputer, DecodedImage, View
from leakcache.store.column_store import ColumnStore
from leakcache.store.manifest import Encoding
from leakcache.store.zarr_column import ROWS, ColumnSpec, decoder_versions, json_hash

AHEAD = 16
"""Images that are decoded ahead of the encoder at most."""
LARGE = 2**24
"""Pixels of an image after which freed memory is given back to the system."""
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


@dataclass(frozen=True)
class WorkUnit:
    """Files that are computed and stored together, by one process.

    Attributes:
        files: one after another.
        number: of its first commit.
        step: from there to its further commits, one for each set of columns that images lack.
    """

    files: tuple[ImageFile, ...]
    number: int
    step: int


@dataclass(frozen=True)
class StoredUnit:
    """A unit that is stored.

    Attributes:
        unit: which.
        files: what was read, in order.
        images: number of images of which something was computed.
    """

    unit: WorkUnit
    files: Sequence[ReadFile]
    images: int


@dataclass
class _Group:
    """Images of a unit that lack the same columns."""

    waiting: list[_Decoded] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)


@dataclass
class _Open:
    """What has been read and computed of a unit so far."""

    files: list[ReadFile] = field(default_factory=list)
    groups: dict[tuple[str, ...], _Group] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, str] = field(default_factory=dict)


class OnePass:
    """Fills columns of a store from image files.

    Use it inside `ColumnStore.writing`, or with units whose numbers were reserved there.

    Attributes:
        computed: number of images by the column that was computed of them.
        images: number of images of which something was computed.
        rules: hash of all that decides whether an image is refused.
    """

    def __init__(
        self,
        store: ColumnStore,
        columns: Sequence[Column],
        encoding: Encoding,
        encoder: Encoder,
        advance: Advance,
        staging: Path | None = None,
    ) -> None:
        self.computed = {column.name: 0 for column in columns}
        self.images = 0
        self._store, self._columns, self._encoding = store, columns, encoding
        self._specs = {column.name: column.spec(encoding) for column in columns}
        self.rules = _rules(encoding, self._specs.values())
        self._compute = ColumnComputer(columns, encoding, encoder, measure_error=True)
        self._advance, self._staging = advance, staging
        self._at_once = min(IMAGES, images_ahead(encoding.preprocessing))

    @property
    def relative_error(self) -> float | None:
        """Of reduced precision; see `ColumnComputer`."""
        return self._compute.relative_error

    def run(self, units: Iterable[WorkUnit]) -> Iterator[StoredUnit]:
        """Read all files and store what their images lack.

        Yields:
            Each unit when it is stored. Files of the next ones are read meanwhile: `units` is asked
            for a unit before those before it are computed.
        """
        begun: deque[WorkUnit] = deque()

        def files() -> Iterator[ImageFile]:
            for unit in units:
                begun.append(unit)
                yield from unit.files

        current = _Open()
        ahead = images_ahead(self._encoding.preprocessing)
        with closing(in_order(self._load, files(), ahead)) as loaded:
            for image in loaded:
                self._take(current, image)
                if len(current.files) == len(begun[0].files):
                    unit, before = begun.popleft(), self.images
                    self._commit(unit, current)
                    yield StoredUnit(unit, current.files, self.images - before)
                    current = _Open()

    def fill(self, files: Sequence[ImageFile]) -> list[ReadFile]:
        """Read further files and store what their images lack; call it inside `writing`.

        Returns:
            What was read, in order, with the reasons and pixels that the store knows.
        """
        units = work_units(files, self._columns, self._encoding, self._store.next_number)
        return self.explained([file for stored in self.run(units) for file in stored.files])

    def explained(self, found: Iterable[ReadFile]) -> list[ReadFile]:
        """Files with the reason and the pixels that the store knows of their content."""
        known, pixels = self._store.refused(self.rules), self._store.pixels
        return [
            replace(f, reason=f.reason or known.get(f.sha256, ""), pixels=pixels.get(f.sha256, ""))
            for f in found
        ]

    def _load(self, file: ImageFile) -> _Decoded:
        try:
            data = read_image(file.path)
        except OSError as error:
            return _Decoded(ReadFile("", 0, f"cannot be read ({error.strerror or error})"))
        sha256 = hashlib.sha256(data).hexdigest()
        if reason := self._store.refused(self.rules).get(sha256):
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
            views, pixels, count = self._cut(data, sha256, lacking)
        except ImageError as error:
            return _Decoded(ReadFile(sha256, len(data), str(error)))
        if count >= LARGE:
            release_freed_memory()
        return _Decoded(ReadFile(sha256, len(data), pixels=pixels), views)

    def _cut(
        self, data: bytes, sha256: str, columns: Sequence[Column]
    ) -> tuple[Mapping[str, Sequence[View]], str, int]:
        """The views of an image by column, the hash of its pixels, and their number."""
        with decoded(data) as whole:
            refuse_tiny(whole.size, self._encoding.preprocessing)
            image = DecodedImage.of(whole, sha256, self._encoding.preprocessing)
            views = {column.name: column.views(image) for column in columns}
            return views, pixels_hash(whole), whole.width * whole.height

    def _take(self, current: _Open, image: _Decoded) -> None:
        file = image.file
        repeated = any(file.sha256 == other.sha256 for other in current.files)
        current.files.append(file)
        if file.reason and file.sha256 and file.sha256 not in self._store.refused(self.rules):
            current.refused[file.sha256] = file.reason
        if not image.views or repeated:
            self._advance(1)
            return
        group = current.groups.setdefault(tuple(image.views), _Group())
        group.waiting.append(image)
        if len(group.waiting) == self._at_once:
            self._compute_waiting(current, group)

    def _compute_waiting(self, current: _Open, group: _Group) -> None:
        if not group.waiting:
            return
        results = self._compute([image.views for image in group.waiting])
        for image, result in zip(group.waiting, results, strict=True):
            if isinstance(result, str):
                current.refused[image.file.sha256] = result
            else:
                group.images.append(image.file.sha256)
                current.pixels[image.file.sha256] = image.file.pixels
                group.rows.append(result)
        self._advance(len(group.waiting))
        group.waiting.clear()

    def _commit(self, unit: WorkUnit, current: _Open) -> None:
        """Store what was computed of a unit, in one commit for each set of columns."""
        for group in current.groups.values():
            self._compute_waiting(current, group)
        groups = {names: group for names, group in current.groups.items() if group.images}
        if current.refused:
            groups = groups or {(): _Group()}
        refused = current.refused
        for place, (names, group) in enumerate(groups.items()):
            self._store.append(
                [self._specs[name] for name in names],
                group.images,
                [np.stack([row[name] for row in group.rows]) for name in names],
                number=unit.number + place * unit.step,
                staging=self._staging,
                refused=refused,
                rules=self.rules,
                pixels={sha256: current.pixels[sha256] for sha256 in group.images},
            )
            self.images += len(group.images)
            refused = {}
            for name in names:
                self.computed[name] += len(group.images)


def work_units(
    files: Sequence[ImageFile], columns: Sequence[Column], encoding: Encoding, first: int
) -> list[WorkUnit]:
    """Cut files into units that fit a shard of each column.

    Training images that have columns of their own are kept apart from others.

    Args:
        files: in the order of the units.
        columns: that their images shall have.
        encoding: of the cache.
        first: number of the first commit.
    """
    apart = any(column.training_only for column in columns)
    found = []
    for training, run in groupby(files, lambda file: apart and file.training):
        wanted = [column for column in columns if training or not column.training_only]
        size = min((c.spec(encoding).per_shard for c in wanted), default=ROWS)
        together = list(run)
        found += [tuple(together[n : n + size]) for n in range(0, len(together), size)]
    return [WorkUnit(unit, first + place, len(found)) for place, unit in enumerate(found)]


def images_ahead(preprocessing: Preprocessing) -> int:
    """How many images to decode ahead of the encoder."""
    views = preprocessing.views * preprocessing.size**2 * 3
    return max(2, min(AHEAD, AHEAD_BYTES // views))


def _rules(encoding: Encoding, specs: Iterable[ColumnSpec]) -> str:
    """Hash of all that decides whether an image is refused: it is tried again under others."""
    columns = sorted(spec.fingerprint for spec in specs)
    content = [VERSION, dict(decoder_versions()), encoding.fingerprint, columns]
    return json_hash(content)
