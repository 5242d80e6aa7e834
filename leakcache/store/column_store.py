"""Columns of images found by content hash: laid out, filled, resumed, checked and repaired.

DIR/store/columns/z0-1a2b3c4d/   one column: its spec and a sharded, checksummed array
DIR/store/commits/000007.json    hashes of some images, and the shard of each column with them

The images of a commit are written to the shard of its number in each of their columns; then the
commit is renamed into place. Shards without a commit are overwritten. So of the columns that were
computed together an image has all or none, whenever the process is killed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from leakcache.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheStale,
    DecoderWarning,
    LeakError,
)
from leakcache.files import locked, read_checked, write_checked
from leakcache.store.build_plan import close_other_plan
from leakcache.store.remote import Mirror
from leakcache.store.zarr_column import (
    CURE,
    SHARDS,
    SPEC,
    ColumnSpec,
    ZarrColumn,
    decoder_versions,
    in_words,
    key_of,
)

STORE = "store"

Compute = Callable[[Int[np.ndarray, "k"]], Shaped[np.ndarray, "k *row"]]
"""From positions among the images asked for to their values."""


@dataclass(frozen=True)
class Commit:
    """Images that were stored together.

    Attributes:
        images: content hash of each row.
        columns: shard by the key of a column.
        refused: reason by content hash, of images that cannot be used.
        rules: what the reasons depend on.
        pixels: hash of the decoded pixels by content hash.
    """

    images: tuple[str, ...]
    columns: Mapping[str, int]
    refused: Mapping[str, str] = field(default_factory=dict)
    rules: str = ""
    pixels: Mapping[str, str] = field(default_factory=dict)


class ColumnStore:
    """All columns in one cache folder, read and written by content hash.

    Attributes:
        folder: of the store.
        columns: by key, those that are on disk.
        pixels: hash of the decoded pixels by content hash.
        next_number: of a commit, above all that are used.
    """

    def __init__(self, home: Path) -> None:
        """Open the store in a cache folder; an empty one where there is none.

        Raises:
            CacheCorrupt: metadata of a column or a commit are damaged.
        """
        self.home, self.folder = home, home / STORE
        self._commits = self.folder / "commits"
        self.columns: dict[str, ZarrColumn] = {}
        self._lost: dict[tuple[str, ...], int] = {}
        self.load()

    def has(self, spec: ColumnSpec, sha256: str) -> bool:
        """Whether an image has the column."""
        return sha256 in self._rows.get(key_of(spec), {})

    def missing(self, spec: ColumnSpec, hashes: Sequence[str]) -> list[int]:
        """Positions of the images without the column, each hash once."""
        rows = self._rows.get(key_of(spec), {})
        first = {sha256: place for place, sha256 in reversed(list(enumerate(hashes)))}
        return sorted(place for sha256, place in first.items() if sha256 not in rows)

    def refused(self, rules: str) -> Mapping[str, str]:
        """Reason by content hash, of images that cannot be used under these rules."""
        return self._refused.get(rules, {})

    def shards_of(self, spec: ColumnSpec, hashes: Sequence[str]) -> Int[np.ndarray, "image"]:
        """Shard of each image, all of which have the column."""
        rows = self._rows[key_of(spec)]
        return np.array([rows[sha256] for sha256 in hashes], np.int64) // spec.per_shard

    def count(self, key: str) -> int:
        """Images that have a column."""
        return len(self._rows.get(key, {}))

    def shards(self) -> list[tuple[str, int, int]]:
        """Key, shard and number of images of everything that is committed."""
        return [
            (key, shard, len(commit.images))
            for commit in self._by_number.values()
            for key, shard in commit.columns.items()
        ]

    def read(self, spec: ColumnSpec, hashes: Sequence[str]) -> Shaped[np.ndarray, "k *row"]:
        """Values of a column, in the order of the images.

        Raises:
            CacheIncomplete: an image lacks the column.
            CacheCorrupt: stored bytes do not match their checksum.
        """
        key = key_of(spec)
        rows = self._rows.get(key, {})
        try:
            stored = np.array([rows[sha256] for sha256 in hashes], np.int64)
        except KeyError as error:
            raise CacheIncomplete(f"{self.home}: an image lacks {spec.name} ({error})") from error
        shards, offsets = np.divmod(stored, spec.per_shard)
        self._fetch(key, set(shards.tolist()))
        for shard in set(shards.tolist()):
            # Nothing is compressed: a file smaller than a row is damaged, or the row is made up.
            if 0 < self.columns[key].size(shard) < spec.row_bytes:
                raise CacheCorrupt(
                    f"{self._column_folder(key)}: shard {shard} is damaged (it is smaller than "
                    f"the values of an image); {CURE}"
                )
        values = np.empty((len(stored), *spec.shape), spec.dtype)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            values[here] = self.columns[key].read(shard, offsets[here])
        return values

    @contextmanager
    def writing(self, plan: str = "", wait: float = 0.0) -> Iterator[None]:
        """Keep other writers out while the body appends.

        Args:
            plan: identity of the build whose workers may go on.
            wait: see `leakcache.files.locked`.

        Raises:
            CacheStale: the images were decoded by other libraries.
            CacheError: another process is writing here, or the disk is full.
        """
        with self.reporting(), locked(self.home, wait):
            close_other_plan(self.folder, plan)
            self.load()
            self.refuse_other_decoder()
            yield

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report errors of the disk in the body.

        Raises:
            CacheError: the disk is full, or the folder cannot be written to.
        """
        try:
            yield
        except LeakError:
            raise
        except OSError as error:
            raise CacheError(
                f"{self.home}: cannot be written ({error.strerror or error}); make room or choose "
                "another --cache; what is finished is kept"
            ) from error

    def append(
        self,
        specs: Sequence[ColumnSpec],
        images: Sequence[str],
        values: Sequence[np.ndarray],
        number: int | None = None,
        staging: Path | None = None,
        **about: Any,
    ) -> None:
        """Store columns of images that have none of these.

        Call it inside `writing`, or with a number that was reserved inside it.

        Args:
            specs: the columns; `lay_out` comes first where several processes append.
            images: content hashes, at most the smallest `per_shard` of the columns.
            values: of each column, one row an image.
            number: of the commit and of its shards; the next one by default. Images whose shards
                were lost get these again.
            staging: folder for files that are not finished; beside their places by default.
            about: further attributes of `Commit`.
        """
        self.lay_out(specs)
        number = self.next_number if number is None else number
        commit = Commit(tuple(images), {}, **about)
        lost = self._lost.get(commit.images)
        if lost is not None and not commit.refused:
            number, commit = lost, self._by_number[lost]
        for spec, rows in zip(specs, values, strict=True):
            partial = staging and staging / key_of(spec)
            self.columns[key_of(spec)].write(number, rows, partial)
        shards = dict.fromkeys(map(key_of, specs), number)
        self._write(number, replace(commit, columns={**commit.columns, **shards}), staging)

    def lay_out(self, specs: Iterable[ColumnSpec]) -> None:
        """Create the columns that are not there; call it inside `writing`."""
        for spec in specs:
            if (key := key_of(spec)) not in self.columns:
                self.columns[key] = ZarrColumn.create(self._column_folder(key), spec)

    def fill(
        self,
        spec: ColumnSpec,
        hashes: Sequence[str],
        compute: Compute,
        advance: Callable[[int], object],
    ) -> int:
        """Compute and store the values of a column that are missing; returns how many.

        Args:
            spec: of the column.
            hashes: content hashes of the images that are asked for.
            compute: gives the values at some positions of `hashes`, `per_shard` at most at a time.
            advance: called with the number of images done since the last call.
        """
        if not self.missing(spec, hashes):
            return 0
        with self.writing():
            missing = np.array(self.missing(spec, hashes), np.int64)
            for start in range(0, len(missing), spec.per_shard):
                places = missing[start : start + spec.per_shard]
                self.append([spec], [hashes[row] for row in places.tolist()], [compute(places)])
                advance(len(places))
        return len(missing)

    def damaged(self) -> dict[tuple[str, int], str]:
        """Read every committed shard through its checksums; by key and shard, what is wrong."""
        found = {}
        for key, shard, count in self.shards():
            self._fetch(key, [shard])
            try:
                self.columns[key].read(shard, np.arange(count))
            except CacheCorrupt as error:
                found[key, shard] = str(error)
        return found

    def _fetch(self, key: str, shards: Iterable[int]) -> None:
        """Copy shards that are missing here, where the folder mirrors an object store."""
        missing = [file for n in shards if not (file := self.columns[key].file(n)).is_file()]
        if missing and self.mirror:
            self.mirror.fetch(missing)

    @cached_property
    def mirror(self) -> Mirror | None:
        """The mirror of an object store that the cache folder is; None for another folder."""
        return Mirror.of(self.home)

    @property
    def numbers(self) -> list[int]:
        """Of all commits."""
        return list(self._by_number)

    def files(self, number: int) -> list[Path]:
        """The files of a commit and of its shards; empty where there is no such commit."""
        path = self._commits / f"{number:06d}.json"
        if not path.is_file():
            return []
        columns = read_commit(path).columns.items()
        return [path, *(self.columns[key].file(shard) for key, shard in columns)]

    def forget(self, lost: Mapping[tuple[str, int], str]) -> None:
        """Take shards out, so that their values are computed again; call it inside `writing`."""
        for number, commit in list(self._by_number.items()):
            kept = {key: n for key, n in commit.columns.items() if (key, n) not in lost}
            if kept != commit.columns:
                self._write(number, replace(commit, columns=kept))
                self._lost[commit.images] = number
        self.load()

    def warn_other_decoder(self) -> None:
        """Warn where the stored images were decoded by other libraries than this process has."""
        if theirs := self._other_decoder():
            warnings.warn(
                f"{self.home}: was decoded by {in_words(theirs)}, this is "
                f"{in_words(decoder_versions())}; values of new images may differ slightly",
                DecoderWarning,
                stacklevel=3,
            )

    def _other_decoder(self) -> Mapping[str, str] | None:
        decoders = (column.spec.decoder for column in self.columns.values())
        return next((found for found in decoders if found != decoder_versions()), None)

    def refuse_other_decoder(self) -> None:
        """Refuse to add to images that were decoded by other libraries.

        Raises:
            CacheStale: names both.
        """
        if theirs := self._other_decoder():
            raise CacheStale(
                f"{self.home}: was decoded by {in_words(theirs)}, this is "
                f"{in_words(decoder_versions())}, which must not be mixed: install those versions "
                "or build the cache again with --fresh"
            )

    def _column_folder(self, key: str) -> Path:
        return self.folder / "columns" / key

    def _write(self, number: int, commit: Commit, staging: Path | None = None) -> None:
        self._commits.mkdir(parents=True, exist_ok=True)
        name = f"{number:06d}.json"
        write_checked(self._commits / name, vars(commit), staging and staging / name)
        self._by_number[number] = commit
        if not self._frozen:
            self._index(number, commit)

    def load(self, before: int | None = None) -> None:
        """Read what is on disk.

        Args:
            before: number of the first commit to leave out, with all that is appended later: what
                an image lacks must not depend on how far other processes have come.
        """
        self._frozen = before is not None
        folders = sorted(path.parent for path in self.folder.glob(f"columns/*/{SPEC}"))
        known = self.columns
        self.columns = {f.name: known.get(f.name) or ZarrColumn.open(f) for f in folders}
        self._by_number: dict[int, Commit] = {}
        self._rows: dict[str, dict[str, int]] = {}
        self.next_number = 0
        self.pixels: dict[str, str] = {}
        self._refused: dict[str, dict[str, str]] = {}
        numbers = sorted(int(path.stem) for path in self._commits.glob("[0-9]*.json"))
        for number in numbers:
            if before is None or number < before:
                commit = read_commit(self._commits / f"{number:06d}.json")
                self._by_number[number] = commit
                self._index(number, commit)

    def _index(self, number: int, commit: Commit) -> None:
        self.pixels |= commit.pixels
        self._refused.setdefault(commit.rules, {}).update(commit.refused)
        for key, shard in commit.columns.items():
            if key not in self.columns:
                raise CacheCorrupt(f"{self._column_folder(key)}: is missing; {CURE}")
            first = shard * self.columns[key].spec.per_shard
            rows = self._rows.setdefault(key, {})
            rows |= {sha256: first + row for row, sha256 in enumerate(commit.images)}
        self.next_number = max(
            self.next_number, number + 1, *(n + 1 for n in commit.columns.values())
        )


def read_commit(path: Path) -> Commit:
    """The commit in a file; raises CacheCorrupt."""
    try:
        content: dict[str, Any] = read_checked(path)
        commit = Commit(**{**content, "images": tuple(content["images"])})
        if not all(isinstance(n, int) and 0 <= n < SHARDS for n in commit.columns.values()):
            raise ValueError("it names a shard that cannot be")
        return commit
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheCorrupt(f"{path}: is damaged ({error}); {CURE}") from error
