"""Embeddings: the output of a model for each image, computed once per run, kept in HDF5.

Every score of the product is a function of this one table, so that detectors, intervals and
reports never run the model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leakcache.dataset.records import FOLDS
from leakcache.errors import LeakError, RunError, ScoringError
from leaknet.checksums import verify
from leaknet.files import replace_file

FORMAT = "leaknet-embeddings-3"
_NUMBERS = ("vectors", "logits", "attention")
_OPTIONAL = ("density", "evidence")
_STRINGS = ("labels", "groups", "folds", "hashes", "paths")


@dataclass(frozen=True)
class Embeddings:
    """One row per image, in the cache's order.

    `vectors` are the pooled embeddings of the paper (Eq. 7) before the gate, `logits` the
    prototype scores of the closed classes (higher = nearer), `attention` the weight of each
    noise step (rows sum to 1), `branches` the logits of each branch of the model alone; all are
    kept in float32. `density` has the coordinates that density detectors read, which have one unit,
    where these are not the vectors; `evidence` is the highest log-likelihood ratio of a known
    source, where the model has one. `labels` of the fold "open" may be any
    generator; those of the other folds must be among `classes`. `run` and `seed` say which
    model made them.

    Raises ScoringError where lengths disagree, a number is not finite (the first bad image is
    named), a fold is unknown or a closed label is not a class.
    """

    vectors: Float[np.ndarray, "n dimension"]
    logits: Float[np.ndarray, "n class"]
    attention: Float[np.ndarray, "n step"]
    labels: Shaped[np.ndarray, "n"]
    groups: Shaped[np.ndarray, "n"]
    folds: Shaped[np.ndarray, "n"]
    hashes: Shaped[np.ndarray, "n"]
    paths: Shaped[np.ndarray, "n"]
    classes: tuple[str, ...]
    run: str = ""
    seed: int = 0
    branches: Mapping[str, Float[np.ndarray, "n class"]] = field(default_factory=dict)
    density: Float[np.ndarray, "n coordinate"] | None = None
    evidence: Float[np.ndarray, "n"] | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        for name in self._optional():
            values = np.asarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, values)
        for name in _STRINGS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.str_))
        branches = {k: np.asarray(v, dtype=np.float32) for k, v in self.branches.items()}
        object.__setattr__(self, "branches", branches)
        names = (*_NUMBERS, *_STRINGS, *self._optional())
        _check_shapes({name: getattr(self, name) for name in names}, self.classes)
        _check_labels(self)
        _check_finite(self)

    def __len__(self) -> int:
        return len(self.vectors)

    def _optional(self) -> list[str]:
        return [name for name in _OPTIONAL if getattr(self, name) is not None]

    @property
    def coordinates(self) -> Float[np.ndarray, "n coordinate"]:
        """What density detectors read: `density`, else the vectors."""
        return self.vectors if self.density is None else self.density

    @property
    def targets(self) -> Int[np.ndarray, "n"]:
        """Index of each label among `classes`; -1 for a generator that is not among them."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(label, -1) for label in self.labels.tolist()], dtype=np.int64)

    def select(self, fold: str) -> Embeddings:
        """The rows of one fold ("train", "val", "test" or "open"), possibly none."""
        if fold not in FOLDS:
            raise ScoringError(f"no fold is called {fold!r}: choose one of {', '.join(FOLDS)}")
        return self.take(self.folds == fold)

    def take(self, rows: Bool[np.ndarray, "n"] | Int[np.ndarray, "k"]) -> Embeddings:
        """The rows given by a mask or by numbers, in that order."""
        columns: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in (*_NUMBERS, *_STRINGS, *self._optional())
        }
        columns["branches"] = {name: logits[rows] for name, logits in self.branches.items()}
        return replace(self, **columns)

    def branch(self, name: str) -> Embeddings:
        """The same images with the logits of one branch alone."""
        return replace(self, logits=self.branches[name])

    def save(self, path: Path) -> None:
        """Write one HDF5 file, whole or not at all."""
        content = self._file_image()
        replace_file(path, lambda partial: partial.write_bytes(content))

    def _file_image(self) -> bytes:
        """Bytes of the HDF5 file: on a full disk the HDF5 library writes to stderr itself."""
        with h5py.File("embeddings", "w", driver="core", backing_store=False) as file:
            for name in (*_NUMBERS, *self._optional()):
                file.create_dataset(name, data=getattr(self, name))
            for name, logits in self.branches.items():
                file.create_dataset(f"branches/{name}", data=logits)
            for name in (*_STRINGS, "classes"):
                file.create_dataset(name, data=list(getattr(self, name)), dtype=h5py.string_dtype())
            file.attrs.update(format=FORMAT, run=self.run, seed=self.seed)
            file.flush()
            image: bytes = file.id.get_file_image()
        return image

    @classmethod
    def load(cls, path: Path) -> Embeddings:
        """Read what `save` wrote.

        Raises RunError where the file is missing or is not such a file, and ScoringError where
        its content is not sound.
        """
        verify(path)
        try:
            with h5py.File(path, "r") as file:
                return _read(file, path)
        except FileNotFoundError as error:
            raise RunError(f"{path} does not exist: run `leak train` to make it") from error
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
            if isinstance(error, LeakError):
                raise
            raise RunError(
                f"{path} is damaged or not a file of embeddings: delete it and score again"
            ) from error


def _read(file: h5py.File, path: Path) -> Embeddings:
    if file.attrs.get("format") != FORMAT:
        raise RunError(f"{path} is not in the format {FORMAT}: delete it and score again")
    size = path.stat().st_size
    _refuse_links(file, path)
    numbers = {name: _values(file[name], size) for name in _NUMBERS}
    branches = {name: _values(file[f"branches/{name}"], size) for name in file.get("branches", {})}
    optional = {name: _values(file[name], size) for name in _OPTIONAL if name in file}
    strings = {name: _values(file[name], size).astype(str) for name in _STRINGS}
    classes = tuple(_values(file["classes"], size).astype(str).tolist())
    _check_shapes(numbers | optional | strings, classes)
    return Embeddings(
        **numbers,
        **optional,
        **strings,
        classes=classes,
        run=str(file.attrs["run"]),
        seed=int(file.attrs["seed"]),
        branches=branches,
    )


def _refuse_links(group: h5py.Group, path: Path) -> None:
    """Refuse links to other files, and arrays whose values lie in other files."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise RunError(f"{path} has a link in place of {name}: delete it and score again")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(item, path)
        elif item.external or item.is_virtual:
            raise RunError(f"{path} keeps {name} in another file: delete it and score again")


def _values(array: h5py.Dataset, size: int) -> np.ndarray:
    """All values of an array, text as `str`.

    Raises:
        ValueError: more values are declared than the file of `size` bytes has room for.
    """
    text = h5py.check_string_dtype(array.dtype) is not None
    if array.size * (1 if text else array.dtype.itemsize) > size:
        raise ValueError(f"{array.name} is larger than the file")
    found: np.ndarray = array.asstr()[()] if text else array[()]
    return found


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of several folds or caches, of one model, as one table."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (*_NUMBERS, *_STRINGS, *parts[0]._optional())
    }
    columns["branches"] = {
        name: np.concatenate([part.branches[name] for part in parts]) for name in parts[0].branches
    }
    return replace(parts[0], **columns)


def _check_shapes(columns: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> None:
    sizes = {name: np.shape(column) for name, column in columns.items()}
    if any(len(sizes[name]) != 2 for name in _NUMBERS):
        raise ScoringError(f"vectors, logits and attention must be tables, not {sizes}")
    if len({shape[0] for shape in sizes.values()}) != 1:
        raise ScoringError(f"the columns of the embeddings differ in length: {sizes}")
    if sizes["logits"][1] != len(classes):
        raise ScoringError(
            f"logits for {sizes['logits'][1]} classes came with {len(classes)} class names"
        )


def _check_labels(e: Embeddings) -> None:
    if not e.classes or len(set(e.classes)) != len(e.classes):
        raise ScoringError(f"class names must be given and differ from one another: {e.classes}")
    strange = np.flatnonzero(~np.isin(e.folds, FOLDS))
    if strange.size:
        raise ScoringError(f"{e.paths[strange[0]]} is in the unknown fold '{e.folds[strange[0]]}'")
    stray = np.flatnonzero((e.folds != "open") & ~np.isin(e.labels, e.classes))
    if stray.size:
        row = stray[0]
        raise ScoringError(
            f"{e.paths[row]} is in fold '{e.folds[row]}' but its label '{e.labels[row]}' "
            "is not a class of this run: put it in fold 'open' or train again"
        )


def _check_finite(e: Embeddings) -> None:
    for name in (*_NUMBERS, *e._optional()):
        values = getattr(e, name)
        rows = values[:, None] if values.ndim == 1 else values
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise ScoringError(
                f"the {name} of {e.paths[bad[0]]} are not finite ({bad.size} images in all): "
                "check the cache with `leak cache verify`, then train again"
            )
