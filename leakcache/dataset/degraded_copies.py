"""Degraded copies of a data set on disk, as WILD has them beside its images.

OUT/stepN/Closed_Set/<Class>/*.png, OUT/stepN/Open_Set/<Class>/*.png
OUT/stepN/Split.json          the folds of the originals, so that OUT/stepN reads like any root
OUT/stepN/index.csv           the same with prompt groups, where those are not file stems
OUT/stepN/degradations.jsonl  a header, then one line an image: what was done to it

Copies are lossless, so that the file of a copy never says what was done to its pixels. A line is
appended when its copy is whole on the disk; running again does what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from leakcache.dataset.records import FOLDS, DatasetIndex, ImageRecord, Reject, canonical, step_of
from leakcache.errors import DataError, ImageError
from leakcache.files import parse_json, partial_of, write_text
from leakcache.images.archive import in_order, read_image
from leakcache.images.decode import decoded
from leakcache.images.degrade import degrade
from leakcache.progress import track

FILE = "degradations.jsonl"


@dataclass(frozen=True)
class Copy:
    """One copy: `path` below the step's folder, the original's path and hash, what was done."""

    path: str
    source: str
    sha256: str
    label: str
    group: str
    fold: str
    operations: list[dict[str, Any]]


def read_copies(manifest: Path, header: Mapping[str, str | int]) -> dict[str, Copy]:
    """The copies that a manifest lists, by path; none where there is no manifest.

    A line that a kill cut short is passed over: its copy is made again.

    Raises:
        DataError: the manifest's header is another one.
    """
    if not manifest.is_file():
        return {}
    rows = [row for line in _lines(manifest) if (row := _parsed(line))]
    if not rows or rows[0] != header:
        former = json.dumps(rows[0] if rows else {})
        raise DataError(
            f"{manifest} is of copies drawn otherwise ({former}, now {json.dumps(header)}): give "
            "another --out, or remove that folder"
        )
    return {copy.path: copy for copy in (Copy(**row) for row in rows[1:])}


def _lines(manifest: Path) -> list[str]:
    # Not splitlines, which also parts at characters that a file's name may hold.
    return manifest.read_text("utf-8", errors="replace").split("\n")


def _parsed(line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def write_manifest(manifest: Path, header: Mapping[str, str | int], copies: Iterable[Copy]) -> None:
    """Write the manifest of these copies, whole or not at all."""
    write_text(manifest, line(header) + "".join(line(asdict(copy)) for copy in copies))


def line(row: Mapping[str, Any]) -> str:
    """One line of a manifest."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_index(folder: Path, copies: Iterable[Copy | ImageRecord]) -> None:
    """Write index.csv and, where an image is of a known class, Split.json into the folder."""
    records = canonical({ImageRecord(c.path, c.label, c.group, c.fold) for c in copies})
    DatasetIndex(Path(os.path.normpath(folder.absolute())), records, (), "").write_csv(
        folder / "index.csv"
    )
    split: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record.fold != "open":
            name = record.path.split("/", 2)[2]
            split.setdefault(record.fold, {}).setdefault(record.label, []).append(name)
    if split:
        write_text(folder / "Split.json", json.dumps(split, indent=1, ensure_ascii=False))


RANGES = 1
"""Number of the ranges in `leakcache.images.degrade`: copies of two kinds are never mixed."""
AHEAD = 8
COMPRESSION = 3
"""Of PNG; more takes far longer for a few percent."""


@dataclass(frozen=True)
class CopyReport:
    """What `write_copies` did: `written` now, `kept` from before, `rejects` skipped."""

    folder: Path
    copies: tuple[Copy, ...]
    written: int
    kept: int
    rejects: tuple[Reject, ...]
    seconds: float

    def operations(self) -> dict[str, int]:
        """How often each operation was done, over all copies in the folder."""
        tally = Counter(row["name"] for copy in self.copies for row in copy.operations)
        return dict(tally.most_common())


def write_copies(
    index: DatasetIndex, out: Path, *, step: int, seed: int = 0, folds: Container[str] = FOLDS
) -> CopyReport:
    """Write `out`/step`step`: a degraded copy of every image of those folds.

    Images that cannot be read or decoded are skipped and listed. Copies that are there already,
    of the same bytes, are kept; those of other folds stay part of the index that is written.

    Raises:
        DataError: no image is in those folds, none could be copied, a label cannot be a folder,
            or the folder holds copies drawn otherwise.
        ConfigError: `step` is not 1, 2 or 3.
    """
    start = time.monotonic()
    wanted = [record for record in index.records if record.fold in folds]
    if not wanted:
        raise DataError(f"{index.root} has no images in the folds asked for: choose other folds")
    folder = out / f"step{step}"
    header: dict[str, str | int] = {
        "ranges": RANGES,
        "step": step,
        "seed": seed,
        "source": str(index.root),
    }
    places = copy_paths(index.records)
    listed = read_copies(folder / FILE, header)
    before = _current(listed, index, places, folder)
    _remove(folder, listed.keys() - before.keys())
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / FILE, header, before.values())
    # Before the first copy, so that a run cut short leaves no folder that gets folds of its own.
    write_index(folder, [*before.values(), *(_planned(record, places) for record in wanted)])
    maker = _Maker(index.root, folder, step, seed, places, before)
    written, rejects = _run(maker, wanted, folder / FILE)
    lost = {places[reject.path] for reject in rejects}
    _remove(folder, lost & before.keys())
    found = {path: copy for path, copy in (before | written).items() if path not in lost}
    if not found:
        raise DataError(f"none of {len(wanted)} images could be copied: {rejects[0].reason}")
    copies = tuple(found[path] for path in sorted(found))
    write_manifest(folder / FILE, header, copies)
    write_index(folder, copies)
    kept = len(wanted) - len(written) - len(rejects)
    return CopyReport(folder, copies, len(written), kept, tuple(rejects), time.monotonic() - start)


def copy_paths(records: Iterable[ImageRecord]) -> dict[str, str]:
    """Where the copy of each image lies, by the original's path: side, class, name, all unique.

    SourceImages that differ by their suffix alone go to numbered sub-folders, so that a copy keeps
    the stem, and with it the prompt group, of its original.

    Raises:
        DataError: a label cannot be the name of a class folder.
    """
    taken: set[str] = set()
    places: dict[str, str] = {}
    for record in records:
        folder = f"{'Open_Set' if record.fold == 'open' else 'Closed_Set'}/{_named(record.label)}"
        inner = _inner(record).with_suffix(".png").as_posix()
        place, number = f"{folder}/{inner}", 1
        while place.casefold() in taken:
            number += 1
            place = f"{folder}/{number}/{inner}"
        taken.add(place.casefold())
        places[record.path] = place
    return places


def _named(label: str) -> str:
    sides = ("closed_set", "open_set")
    odd = not label or "/" in label or label.startswith(".") or label.casefold() in sides
    if odd or step_of(label):
        raise DataError(f"the label {label!r} cannot be a class folder: rename it in the index")
    return label


def _inner(record: ImageRecord) -> PurePosixPath:
    """The path below the class folder where the class has one, else the name alone."""
    path = PurePosixPath(record.path)
    above = path.parts[:-1]
    if path.is_absolute() or record.label not in above:
        return PurePosixPath(path.name)
    below = path.parts[above.index(record.label) + 1 :]
    return PurePosixPath(*(part for part in below if step_of(part) is None and part != ".."))


def _planned(record: ImageRecord, places: Mapping[str, str]) -> ImageRecord:
    return replace(record, path=places[record.path])


@dataclass(frozen=True)
class _Maker:
    """Makes one copy; safe on threads."""

    root: Path
    folder: Path
    step: int
    seed: int
    places: Mapping[str, str]
    before: Mapping[str, Copy]

    def __call__(self, record: ImageRecord) -> Copy | Reject:
        try:
            data = read_image(self.root / record.path)
        except OSError as error:
            return Reject(record.path, f"cannot be read ({error.strerror or error})")
        path, sha256 = self.places[record.path], hashlib.sha256(data).hexdigest()
        there = self.before.get(path)
        if there and there.sha256 == sha256:
            return there
        try:
            with decoded(data) as whole:
                image, chain = degrade(whole, self.step, self.seed, sha256)
        except ImageError as error:
            return Reject(record.path, str(error))
        _save(image, self.folder / path)
        done = [operation.record() for operation in chain]
        return Copy(path, record.path, sha256, record.label, record.group, record.fold, done)


def _run(
    maker: _Maker, records: list[ImageRecord], manifest: Path
) -> tuple[dict[str, Copy], list[Reject]]:
    written: dict[str, Copy] = {}
    rejects: list[Reject] = []
    with (
        track(f"degrading, step {maker.step}", len(records), "images") as advance,
        manifest.open("a", encoding="utf-8") as file,
        closing(in_order(maker, records, AHEAD)) as results,
    ):
        for result in results:
            if isinstance(result, Reject):
                rejects.append(result)
            elif result is not maker.before.get(result.path):
                written[result.path] = result
                file.write(line(asdict(result)))
                file.flush()
            advance(1)
    return written, rejects


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden names are passed over by the reader of folders, should a kill leave one behind.
    partial = partial_of(path)
    image.save(partial, "PNG", compress_level=COMPRESSION)
    partial.replace(path)


def _remove(folder: Path, paths: Iterable[str]) -> None:
    # A reader of the folder would still take them: an open set has no split to leave them out.
    for path in paths:
        place = folder / path
        # The manifest may be made to harm: nothing outside of the folder is removed.
        if place.resolve().is_relative_to(folder.resolve()):
            place.unlink(missing_ok=True)


def _current(
    copies: dict[str, Copy], index: DatasetIndex, places: Mapping[str, str], folder: Path
) -> dict[str, Copy]:
    """The copies that lie in the folder, by path, with the folds that the index gives now."""
    records = {places[record.path]: record for record in index.records}
    return {
        path: replace(copy, source=r.path, label=r.label, group=r.group, fold=r.fold)
        for path, copy in copies.items()
        if (r := records.get(path)) and (folder / path).is_file()
    }
