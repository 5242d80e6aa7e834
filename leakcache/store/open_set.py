"""Caches of unknown generators, encoded exactly as the closed cache they are scored beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakcache.columns.pixels import Cut
from leakcache.columns.table import COLUMNS
from leakcache.dataset.index import DatasetIndex, read_index
from leakcache.errors import DataError
from leakcache.store.build import BuildReport, build_cache
from leakcache.store.cache import Cache


def open_set_builds(closed: Cache, roots: Sequence[Path], device: str = "cpu") -> list[BuildReport]:
    """Build, or bring up to date, the caches of the open set, with the columns of the closed one.

    Args:
        closed: decides autoencoder, preprocessing and types.
        roots: folders of unknown generators; the open set of the closed cache's own data
            where none is named.
        device: where to encode what is missing.

    Raises:
        DataError: no root is named and the data has no open set.
        CacheStale: the autoencoder has other weights than when the closed cache was built.
    """
    if roots:
        indices = {f"open-{root.resolve().name}": read_index(root, open_set=True) for root in roots}
        if len(indices) < len(roots):
            raise DataError("two folders given with --open have the same name; rename one")
    else:
        indices = {"open": _own_open_set(closed)}
    encoding = closed.manifest.encoding
    encoder = encoding.encoder(device)
    columns = shared_columns(closed)
    return [
        build_cache(
            index,
            encoder,
            closed.path.parent / name,
            split="open",
            preprocessing=encoding.preprocessing,
            stored=encoding.stored,
            columns=columns,
        )
        for name, index in indices.items()
    ]


def shared_columns(closed: Cache) -> list[str]:
    """Columns of a closed cache that images of other folds have too, pixels left aside."""
    return [
        name
        for name, column in COLUMNS.items()
        if not (column.training_only or isinstance(column, Cut)) and closed.has(name)
    ]


def own_open_set(closed: Cache) -> DatasetIndex | None:
    """The unknown classes of a closed cache's own data; None without any, or where that is gone."""
    manifest = closed.manifest
    try:
        found = read_index(Path(manifest.source or manifest.data), **manifest.reading)
    except DataError:
        return None
    found = found.select("open")
    return found if found.records else None


def _own_open_set(closed: Cache) -> DatasetIndex:
    index = own_open_set(closed)
    if index is None:
        raise DataError(
            f"{closed.manifest.source or closed.manifest.data}: has no open set; name a folder of "
            "unknown generators with --open, or score without --kde"
        )
    return index
