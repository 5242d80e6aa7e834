"""What validation images of a run say: their sizes and compression, and families of generators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from leakcache.errors import ImageError, RunError
from leakcache.files import parse_json
from leakcache.images.archive import read_image
from leakcache.store.cache import Cache
from leaknet.calibration.families import write_families
from leaknet.checksums import is_there, read_text, was_written
from leaknet.data.embeddings import Embeddings
from leaknet.files import read_tensors, save_tensors, write_json
from leaknet.model.pair_calibration import clusters
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.scores import ImageFacts, ImageRange, header

# range.json of a run holds those of its validation images. An answer *outside the calibrated range*
# says with it what is unlike them.
RANGE = "range.json"
MOST_READ = 500
"""Validation images whose headers are read at most, evenly spaced."""


def write_range(run: Path, images: Sequence[ImageFacts], former: ImageRange | None = None) -> None:
    """Write the range of a run, `former` included; nothing without images."""
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


# The relation of two generators is the mean calibrated log10 ratio that a validation image of each
# have one source, over pairs of different prompts. Average linkage of these relations is a tree;
# cut where clustering of images is (`leaknet.model.pair_calibration`), it gives the families.
Relations = tuple[Float64[np.ndarray, "class class"], float]
"""Mean log10 ratio of every two generators, and the cut of their tree."""
RELATIONS = "relations.safetensors"
SHORTEST = 3
"""Characters that the members of a family must share to name it."""


def learn_families(run: Path, model: ProtoLeakNet, known: Embeddings) -> None:
    """Write families.toml and the relations of a run, where its model can compare sources.

    Args:
        run: run folder.
        model: of the run.
        known: closed embeddings; the validation fold is read.
    """
    found = relations(model, known.select("val"))
    if found is None:
        return
    matrix, cut = found
    write_families(run, families_of(matrix, model.classes, cut))
    values = {"log10_lr": torch.from_numpy(matrix), "cut": torch.tensor(cut)}
    save_tensors(run / RELATIONS, values, {"model": known.run})


def read_relations(run: Path, model: str) -> Relations | None:
    """Relations of the generators of a run; None where it has none.

    Args:
        run: run folder.
        model: sha256 of its weights.
    """
    if not is_there(run / RELATIONS):
        return None
    tensors, metadata = read_tensors(run / RELATIONS)
    if metadata.get("model") != model:
        return None
    return tensors["log10_lr"].double().numpy(), float(tensors["cut"])


@torch.inference_mode()
def relations(model: ProtoLeakNet, val: Embeddings) -> Relations | None:
    """Relation of every two generators, and the cut; None for a model without calibrated pairs.

    Generators without a pair of images are as unlike as the calibration allows.
    """
    branch = model.statistics
    calibration = None if branch is None else branch.sources.pair_calibration
    if branch is None or calibration is None or branch.name not in model.weighted or not len(val):
        return None
    vectors = torch.from_numpy(val.vectors).to(model.device)
    coordinates = branch.coordinates(model.split(vectors)[branch.name])
    ratios = branch.sources.same_source(coordinates, calibration)
    apart = (val.groups[:, None] != val.groups).astype(np.float64)
    member = np.eye(len(model.classes))[val.targets]
    counts = member.T @ apart @ member
    sums = member.T @ (ratios * apart) @ member
    matrix = np.where(counts > 0, sums / np.maximum(counts, 1), calibration.low)
    return (matrix + matrix.T) / 2, calibration.cut


def families_of(
    matrix: Float64[np.ndarray, "class class"], classes: tuple[str, ...], cut: float
) -> dict[str, list[str]]:
    """Members of each family of two generators or more, by its name.

    A family of all generators says nothing of an image, so it is none.
    """
    labels = clusters(matrix, cut)
    found: dict[str, list[str]] = {}
    if not labels.any():
        return found
    for number in range(int(labels.max()) + 1):
        own = np.flatnonzero(labels == number)
        if len(own) > 1:
            within = matrix[np.ix_(own, own)] * (1 - np.eye(len(own)))
            members = [classes[i] for i in own]
            central = members[int(within.sum(axis=1).argmax())]
            found[_name(members, central, {*found, *classes} - set(members))] = members
    return found


def _name(members: list[str], central: str, taken: set[str]) -> str:
    """What the members' names begin with, else the name of the most central one."""
    alike = takewhile(lambda characters: len(set(characters)) == 1, zip(*members, strict=False))
    shared = "".join(characters[0] for characters in alike).rstrip("-_. ")
    name = shared if len(shared) >= SHORTEST else central
    return name if name not in taken else f"{central} and related"
