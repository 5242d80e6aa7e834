"""The images of one split, their stored columns, and what has changed since they were stored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from leakcache.errors import CacheIncomplete, CacheStale
from leakcache.images.archive import hash_file, image_stat
from leakcache.store.column import Column
from leakcache.store.column_store import ColumnStore
from leakcache.store.columns import COLUMNS, coefficients_of, dct_side
from leakcache.store.manifest import FILE, CacheManifest
from leakcache.store.remote import address
from leakcache.store.zarr_column import ColumnSpec


@dataclass(frozen=True)
class Moments:
    """First two moments of samples with a common shape, which merge in any order.

    The pairwise update is Chan, Golub and LeVeque (1979): numerically stable, exact in the
    count, and independent of how the samples were split up to rounding.

    Attributes:
        count: number of samples.
        mean: their mean, float64, one entry per coordinate.
        m2: sum of squared deviations from the mean, float64, the same shape.
    """

    count: int
    mean: Float[np.ndarray, "*shape"]
    m2: Float[np.ndarray, "*shape"]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Moments:
        """Moments of no samples: the neutral element of `merge`."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, samples: Float[np.ndarray, "sample *shape"]) -> Moments:
        """Moments over the first axis, accumulated in float64."""
        if len(samples) == 0:
            return cls.empty(samples.shape[1:])
        exact = samples.astype(np.float64)
        mean = exact.mean(axis=0)
        return cls(len(exact), mean, np.square(exact - mean).sum(axis=0))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of samples together."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        m2 = self.m2 + other.m2 + np.square(shift) * (self.count * other.count / count)
        return Moments(count, mean, m2)

    @property
    def variance(self) -> Float[np.ndarray, "*shape"]:
        """Population variance (division by the count); NaN where there is no sample."""
        if self.count == 0:
            return np.full_like(self.m2, np.nan)
        return self.m2 / self.count


@dataclass(frozen=True)
class LatentMoments:
    """What closed-form standardisation needs.

    Attributes:
        latent: over pixels, per channel: shape (channel,).
        dct: over images, per channel and coefficient: shape (channel, size, size).
    """

    latent: Moments
    dct: Moments

    @classmethod
    def of(
        cls,
        latents: Float[np.ndarray, "image view channel height width"],
        coefficients: Float[np.ndarray, "image view channel size size"],
    ) -> LatentMoments:
        """Moments of these images; every view counts as a sample."""
        channel = latents.shape[2]
        pixels = np.moveaxis(latents, 2, -1).reshape(-1, channel)
        samples = coefficients.reshape(-1, *coefficients.shape[2:])
        return cls(Moments.of(pixels), Moments.of(samples))

    @classmethod
    def empty(cls, channel: int, size: int) -> LatentMoments:
        """Moments of no images."""
        return cls(Moments.empty((channel,)), Moments.empty((channel, size, size)))

    def merge(self, other: LatentMoments) -> LatentMoments:
        """Moments of both sets of images together."""
        return LatentMoments(self.latent.merge(other.latent), self.dct.merge(other.dct))


DERIVED = "dct_low"
"""The column that is computed from z0 whenever it is read."""
AT_ONCE = 1024
"""Latents in memory while moments are taken."""


class Cache:
    """A finished cache of one split, read-only.

    Rows are the accepted images in canonical order: by fold, label and path. Their columns lie in
    the store of the folder above, which all splits share.

    Attributes:
        path: its folder.
        manifest: its images, and how they become latents.
        store: the columns.
        labels, groups, folds, hashes, paths: one text an image.
        sizes: bytes of each image file.
    """

    def __init__(self, path: Path, manifest: CacheManifest) -> None:
        self.path = path
        self.manifest = manifest
        self.store = ColumnStore(path.parent)
        self.labels = self._text("label")
        self.groups = self._text("group")
        self.folds = self._text("fold")
        self.hashes = self._text("sha256")
        self.paths = self._text("path")
        self.sizes = np.array(manifest.table["bytes"], np.int64)

    @classmethod
    def open(cls, path: Path) -> Cache:
        """Open a finished cache; warns where its images were decoded by other libraries.

        Raises:
            CacheIncomplete: its build has not finished.
            CacheStale: it has the format of another version.
            CacheCorrupt: its manifest or the metadata of its columns are damaged.
        """
        cache = cls(path, CacheManifest.read(path))
        cache.store.warn_other_decoder()
        return cache

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """Closed labels, in the order of class numbers."""
        return self.manifest.classes

    def rows(self, fold: str) -> Int[np.ndarray, " image"]:
        """Rows of one fold, in canonical order."""
        return np.flatnonzero(self.folds == fold)

    def column(self, name: str, rows: Int[np.ndarray, " image"]) -> Shaped[np.ndarray, "image ..."]:
        """Values of one column for these rows, in their order.

        Args:
            name: in `leakcache.store.columns`, or dct_low, which follows from z0.
            rows: positions among the images of this cache.

        Raises:
            CacheIncomplete: one of these images lacks the column; names the command that fills it.
            CacheCorrupt: stored bytes do not match their checksum.
        """
        if name == DERIVED:
            z0 = self.column("z0", rows)
            size = dct_side(z0.shape[1:])
            return coefficients_of(z0) if len(z0) else z0[..., :size, :size]
        self.require([name], rows)
        return COLUMNS[name].read(self.store.read(self._spec(name), self.hashes[rows].tolist()))

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one image's values of a column."""
        spec = self._spec(name)
        return COLUMNS[name].read(np.zeros((1, *spec.shape), spec.dtype)).shape[1:]

    def shards(self, name: str, rows: Int[np.ndarray, " image"]) -> Int[np.ndarray, " image"]:
        """Number of the file that has the column of each of these rows; all have it."""
        return self.store.shards_of(self._spec(name), self.hashes[rows].tolist())

    def has(self, name: str, rows: Int[np.ndarray, " image"] | None = None) -> bool:
        """Whether these rows have a column; by default all rows that may have it."""
        return not self.lacking(name, rows)

    def lacking(self, name: str, rows: Int[np.ndarray, " image"] | None = None) -> int:
        """How many of these rows lack a column; by default of all rows that may have it."""
        name = "z0" if name == DERIVED else name
        wanted = self.eligible(COLUMNS[name]) if rows is None else rows
        return len(self.store.missing(self._spec(name), self.hashes[wanted].tolist()))

    def eligible(self, column: Column) -> Int[np.ndarray, " image"]:
        """Rows that may have a column: those of the training fold, or all."""
        return self.rows("train") if column.training_only else np.arange(len(self))

    def require(self, names: Iterable[str], rows: Int[np.ndarray, " image"] | None = None) -> None:
        """Refuse a cache that lacks a column for these rows.

        Raises:
            CacheIncomplete: names the columns and the command that fills them.
        """
        missing = [name for name in names if not self.has(name, rows)]
        if missing:
            raise CacheIncomplete(
                f"{address(self.path.parent)}/{self.path.name}: lacks {', '.join(missing)}; run "
                f"`{self.command(missing)}` or add --fill"
            )

    def command(self, columns: Iterable[str]) -> str:
        """The command that fills columns of this cache."""
        manifest = self.manifest
        words = [f"leak cache build {manifest.data_options} --cache {address(self.path.parent)}"]
        words += [f"--split {manifest.split}"] * (manifest.split != "closed")
        words += [manifest.encoding.options] * bool(manifest.encoding.options)
        return " ".join([*words, f"--columns {','.join(columns)}"])

    def moments(self, fold: str = "train", labels: tuple[str, ...] | None = None) -> LatentMoments:
        """Moments of z0 and of its low DCT coefficients in one fold, over all or some labels.

        Those of no samples where the cache has no z0, as a model of statistics alone needs none.
        """
        rows = self.rows(fold)
        if labels is not None:
            rows = rows[np.isin(self.labels[rows], labels)]
        channel = self.manifest.latent_shape[1]
        total = LatentMoments.empty(channel, dct_side(self.manifest.latent_shape))
        if not self.has("z0", rows):
            return total
        for start in range(0, len(rows), AT_ONCE):
            z0 = self.column("z0", rows[start : start + AT_ONCE])
            total = total.merge(LatentMoments.of(z0, coefficients_of(z0)))
        return total

    def _spec(self, name: str) -> ColumnSpec:
        return COLUMNS[name].spec(self.manifest.encoding)

    def _text(self, name: str) -> np.ndarray:
        return np.array(self.manifest.table[name], dtype=np.str_)


NAMED = 3
"""How many paths a message names before it only counts."""


@dataclass(frozen=True)
class Changes:
    """Paths, by what happened to them since the cache was built.

    Attributes:
        added: not in the cache before.
        removed: not in the cache any more.
        altered: other content under the same path.
        moved: the same content, another label, group or fold.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered or self.moved)

    def __str__(self) -> str:
        parts = [
            f"{len(paths)} {what} ({', '.join(paths[:NAMED])}{', …' * (len(paths) > NAMED)})"
            for what, paths in (
                ("added", self.added),
                ("removed", self.removed),
                ("changed", self.altered),
                ("relabelled or in another fold", self.moved),
            )
            if paths
        ]
        return "; ".join(parts) or "nothing changed"


def find_changes(then: CacheManifest | None, now: CacheManifest) -> Changes:
    """Compare the images of two builds; nothing has changed where there was none before."""
    if then is None:
        return Changes()
    before, after = _images(then), _images(now)
    common = [path for path in after if path in before]
    return Changes(
        added=tuple(path for path in after if path not in before),
        removed=tuple(path for path in before if path not in after),
        altered=tuple(path for path in common if after[path][0] != before[path][0]),
        moved=tuple(path for path in common if after[path][1:] != before[path][1:]),
    )


def open_current(path: Path) -> Cache:
    """Open a finished cache and make sure that its images are still those that it was built from.

    Cheap enough for every command: a file is read again only where its time or its size says that
    it may have changed. Missing files are no fault, as a cache is complete without them.

    Raises:
        CacheStale: the content of an image has changed.
        CacheIncomplete: its build has not finished.
        CacheCorrupt: its manifest or the metadata of its columns are damaged.
    """
    cache = Cache.open(path)
    altered = _altered_since(cache, (path / FILE).stat().st_mtime_ns)
    if altered:
        raise CacheStale(
            f"{path}: since it was built, {Changes(altered=altered)}: "
            "run `leak cache build` again; only these will be computed"
        )
    return cache


def _altered_since(cache: Cache, built: int) -> tuple[str, ...]:
    """Paths whose file has another size, or is newer than the cache and has another content."""
    altered, root = [], cache.manifest.data
    if not Path(root).exists():
        return ()
    columns = (cache.paths.tolist(), cache.sizes.tolist(), cache.hashes.tolist())
    for path, size, sha256 in zip(*columns, strict=True):
        file = f"{root}/{path}"
        try:
            bytes_now, changed = _file_stat(file)
        except OSError:
            continue
        newer = changed > built
        if bytes_now not in (None, size) or (newer and hash_file(Path(file)) != sha256):
            altered.append(path)
    return tuple(altered)


def _file_stat(file: str) -> tuple[int | None, int]:
    """As `image_stat`, without the cost of paths for a plain file."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a path costs more than the call
    except NotADirectoryError:  # one of the folders is an archive
        return image_stat(Path(file))
    return status.st_size, status.st_mtime_ns


def _images(manifest: CacheManifest) -> dict[str, tuple[str, str, str, str]]:
    columns = (manifest.table[name] for name in ("sha256", "label", "group", "fold"))
    return dict(zip(manifest.table["path"], zip(*columns, strict=True), strict=True))
