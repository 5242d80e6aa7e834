"""How alike the images of the known generators are, and the families that follow.

The relation of two generators is the mean calibrated log10 ratio that a validation image of each
have one source, over pairs of different prompts. Average linkage of these relations is a tree;
cut where clustering of images is (`leaknet.model.pair_calibration`), it gives the families.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from leaknet.calibration.families import write_families
from leaknet.checksums import is_there
from leaknet.data.embeddings import Embeddings
from leaknet.files import read_tensors, save_tensors
from leaknet.model.pair_calibration import clusters
from leaknet.model.protoleaknet import ProtoLeakNet

Relations = tuple[Float64[np.ndarray, "class class"], float]
"""Mean log10 ratio of every two generators, and the cut of their tree."""
FILE = "relations.safetensors"
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
    save_tensors(run / FILE, values, {"model": known.run})


def read_relations(run: Path, model: str) -> Relations | None:
    """Relations of the generators of a run; None where it has none.

    Args:
        run: run folder.
        model: sha256 of its weights.
    """
    if not is_there(run / FILE):
        return None
    tensors, metadata = read_tensors(run / FILE)
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
