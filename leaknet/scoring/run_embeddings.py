"""Embeddings of a run's images, computed once and kept in its folder.

    embeddings.h5   the closed folds
    unknown.h5      generators that the run was not trained on

What is kept counts only for the very weights and images it was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from leakcache.errors import CacheStale, ImageError, RunError, ScoringError
from leakcache.files import parse_json
from leakcache.images.archive import read_image
from leakcache.progress import track
from leakcache.store.cache import Cache
from leaknet.calibration.calibration import choosing_half
from leaknet.checksums import is_there, read_text, was_written
from leaknet.config import RunConfig
from leaknet.data.columns import ImageColumns, load_fold
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import DETECTORS, Detector, GlobalKDE
from leaknet.files import read_tensors, save_tensors, write_json
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.scores import ImageFacts, ImageRange, header
from leaknet.training.run_folder import RunFolder, with_held_out

CLOSED_FOLDS = ("train", "val", "test")
UNKNOWN = "unknown.h5"
_COLUMNS = ("hashes", "labels", "groups", "folds")

Identity = tuple[Shaped[np.ndarray, "n"], ...]


def closed_embeddings(run: RunFolder, model: ProtoLeakNet, cache: Cache) -> Embeddings:
    """Embeddings of all closed folds of a cache, whose latents are read only where needed.

    Images of generators that were enrolled into the run, which the cache lacks, come last.
    """
    rows = np.concatenate([cache.rows(fold) for fold in CLOSED_FOLDS])
    identity = tuple(getattr(cache, name)[rows] for name in _COLUMNS)
    names = model.config.columns(training=False)
    folds = (with_held_out(run.path, load_fold(cache, fold, names)) for fold in CLOSED_FOLDS)
    enrolled = _enrolled(run, cache.classes)
    if enrolled is None:
        return _kept(run.embeddings, run, identity, lambda digest: _embed(model, folds, digest))
    columns = (getattr(enrolled, name) for name in _COLUMNS)
    both = tuple(np.concatenate(pair) for pair in zip(identity, columns, strict=True))
    return _kept(
        run.embeddings,
        run,
        both,
        lambda digest: concatenate([_embed(model, folds, digest), enrolled]),
    )


def known_embeddings(
    run: RunFolder, model: ProtoLeakNet, folds: Sequence[ImageColumns]
) -> Embeddings:
    """Embeddings of closed folds whose latents are in memory."""
    identity = _identity(folds)
    known = (with_held_out(run.path, fold) for fold in folds)
    return _kept(run.embeddings, run, identity, lambda digest: _embed(model, known, digest))


def unknown_embeddings(
    run: RunFolder,
    model: ProtoLeakNet,
    unknown: Sequence[ImageColumns],
    known: Embeddings,
    *,
    force: bool = False,
    file: str = UNKNOWN,
    kind: str = "open",
) -> Embeddings:
    """Embeddings of images that are not trained on: unknown generators or another collection.

    Args:
        run: run folder.
        model: of the run.
        unknown: the images.
        known: embeddings of the closed folds.
        force: leave known images out, instead of refusing.
        file: name of the file in the run folder that keeps the embeddings.
        kind: of the set, in error messages.

    Raises:
        ScoringError: an image is also a known one; with `force` it is left out instead.
    """
    path, identity = run.path / file, _identity(unknown)
    embeddings = _kept(path, run, identity, lambda digest: _embed(model, unknown, digest))
    return _without_known(known, embeddings, force, kind)


def require_same_encoding(cache: Cache, closed: Cache) -> None:
    """Raise CacheStale if a cache was encoded otherwise than the closed one."""
    if words := closed.manifest.encoding.difference(cache.manifest.encoding):
        raise CacheStale(
            f"{cache.path}: was encoded otherwise than {closed.path} ({words}); build it again"
        )


def open_splits(caches: Sequence[Cache], closed: Cache, config: RunConfig) -> list[ImageColumns]:
    """The unknown generators that were cached beside a closed cache.

    Prompt groups of other data get names of their own: files of two data sets may well have
    the same names, and names are what groups are made of.

    Raises:
        CacheStale: a cache was encoded otherwise than the closed one.
    """
    splits = []
    for cache in caches:
        require_same_encoding(cache, closed)
        split = load_fold(cache, "open", config.columns(training=False))
        root = Path(cache.manifest.data)
        if root != Path(closed.manifest.data):
            names = [f"{root.name}/{group}" for group in split.groups.tolist()]
            split = replace(split, groups=np.array(names, dtype=np.str_))
        splits.append(split)
    return splits


def embed_split(model: ProtoLeakNet, split: ImageColumns, digest: str) -> Embeddings:
    """Embed one fold; `digest` is the SHA-256 of the model's weights."""
    fold = str(split.folds[0]) if len(split) else "an empty fold"
    with track(f"embedding {fold}", len(split), "images") as advance:
        return embed(model, split, run=digest, advance=advance)


def _enrolled(run: RunFolder, cached: tuple[str, ...]) -> Embeddings | None:
    if not is_there(run.embeddings):
        if set(run.record().classes) - set(cached) and was_written(run.embeddings):
            raise RunError(
                f"{run.embeddings} is missing, and the cache lacks images that were enrolled: "
                "restore it, or enrol them again"
            )
        return None
    stored = Embeddings.load(run.embeddings)
    rows = ~np.isin(stored.labels, cached)
    return stored.take(rows) if stored.run == run.fingerprint() and rows.any() else None


def _embed(model: ProtoLeakNet, splits: Iterable[ImageColumns], digest: str) -> Embeddings:
    return concatenate([embed_split(model, split, digest) for split in splits])


def _kept(
    path: Path, run: RunFolder, identity: Identity, make: Callable[[str], Embeddings]
) -> Embeddings:
    digest = run.fingerprint()
    if is_there(path):
        stored = Embeddings.load(path)
        found = tuple(getattr(stored, name) for name in _COLUMNS)
        if stored.run == digest and all(map(np.array_equal, found, identity)):
            return stored
    embeddings = make(digest)
    embeddings.save(path)
    return embeddings


def _identity(splits: Sequence[ImageColumns]) -> Identity:
    return tuple(np.concatenate([getattr(split, name) for split in splits]) for name in _COLUMNS)


def _without_known(known: Embeddings, other: Embeddings, force: bool, kind: str) -> Embeddings:
    seen = dict(zip(known.hashes.tolist(), known.paths.tolist(), strict=True))
    shared = np.isin(other.hashes, known.hashes)
    if not shared.any():
        return other
    if not force:
        row = int(np.flatnonzero(shared)[0])
        raise ScoringError(
            f"the {kind} image {other.paths[row]} is also the closed image "
            f"{seen[str(other.hashes[row])]} ({shared.sum()} in all): take it out of the "
            f"{kind} set, or give --force to leave such images out"
        )
    if shared.all():
        raise ScoringError(f"every image of the {kind} set is also a closed one: nothing is left")
    return other.take(~shared)


SCORERS = "scorers.safetensors"


def detectors_named(names: Sequence[str]) -> tuple[type[Detector], ...]:
    """The detectors of these names, the reported one first: KDE, else the first named.

    `all` stands for every one. Which is reported is thereby fixed before any open image is scored.

    Raises:
        ScoringError: a name is not among them.
    """
    known = {detector.name: detector for detector in DETECTORS}
    if "all" in names:
        names = tuple(known)
    for name in names:
        if name not in known:
            raise ScoringError(f"--detectors {name}: take some of {', '.join(known)}, or all")
    found = (known[name] for name in names)
    return tuple(sorted(found, key=lambda kind: kind is not GlobalKDE))


def fit_all(kinds: Sequence[type[Detector]], closed: Embeddings) -> list[Detector]:
    """Fit each detector on the training fold and the choosing half of the validation fold.

    The other half is left for p-values, which count images that had no say in the score.
    """
    train, val = closed.select("train"), choosing_half(closed.select("val"))
    return [kind().fit(train, val) for kind in kinds]


def save_scorers(run: Path, detectors: Sequence[Detector], model: str) -> None:
    """Write `scorers.safetensors`; detectors of the same model that were there already stay.

    Args:
        run: run folder.
        detectors: fitted ones.
        model: sha256 of the weights whose embeddings they were fitted on.
    """
    tensors = _kept_tensors(run, model)
    for detector in detectors:
        for name, array in detector.state().items():
            tensors[f"{detector.name}.{name}"] = torch.from_numpy(np.asarray(array))
    save_tensors(run / SCORERS, tensors, {"model": model})


def load_scorers(
    run: Path, kinds: Sequence[type[Detector]], known: Embeddings, model: str
) -> list[Detector]:
    """Fitted detectors of a run; those that it does not hold are fitted now and kept.

    Args:
        run: run folder.
        kinds: which.
        known: the run's closed embeddings, for those that are missing.
        model: sha256 of the weights.
    """
    tensors = _kept_tensors(run, model)
    detectors = []
    for kind in kinds:
        prefix = f"{kind.name}."
        state = {
            k.removeprefix(prefix): v.numpy() for k, v in tensors.items() if k.startswith(prefix)
        }
        try:
            detectors.append(kind.from_state(state) if state else fit_all([kind], known)[0])
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise RunError(f"{run / SCORERS} does not fit {kind.name}: delete it") from error
        if not state:
            save_scorers(run, detectors[-1:], model)
    return detectors


def _kept_tensors(run: Path, model: str) -> dict[str, torch.Tensor]:
    """State of the detectors in a run folder; none for other weights."""
    if not is_there(run / SCORERS):
        return {}
    tensors, metadata = read_tensors(run / SCORERS)
    return tensors if metadata.get("model") == model else {}


RANGE = "range.json"
MOST_READ = 500
"""Validation images whose headers are read at most, evenly spaced."""


def write_range(run: Path, images: Sequence[ImageFacts], former: ImageRange | None = None) -> None:
    """Write the range of a run, `former` included; nothing without images.

    range.json of a run holds those of its validation images. An answer *outside the calibrated
    range* says with it what is unlike them.
    """
    if (found := ImageRange.of(images)) is not None:
        write_json(run / RANGE, vars(found.joined(former)))


def read_range(run: Path) -> ImageRange | None:
    """The range of a run; None for a run that has none.

    Raises:
        RunError: the file is damaged, or gone.
    """
    path = run / RANGE
    if not is_there(path):
        if was_written(path):
            raise RunError(f"{path} is missing: restore it, or train again")
        return None
    try:
        content = {key: tuple(value) for key, value in parse_json(read_text(path)).items()}
        formats = tuple(map(str, content.pop("formats")))
        ends = {key: (int(low), int(high)) for key, (low, high) in content.items()}
        return ImageRange(formats=formats, **ends)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged ({error}): restore it, or train again") from error


def facts_of_cache(cache: Cache, fold: str = "val") -> list[ImageFacts]:
    """Facts of the image files of a fold, from their headers; those that are gone are left out."""
    rows, root = cache.rows(fold), Path(cache.manifest.data)
    if len(rows) > MOST_READ:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_READ).astype(np.int64)]
    found = []
    for path in cache.paths[rows].tolist():
        try:
            sides, form, level = header(read_image(root / path))
        except (OSError, ImageError):
            continue
        found.append(ImageFacts(sides=sides, format=form, quality=level))
    return found
