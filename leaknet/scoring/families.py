"""Families: related generators whose images are hard to distinguish, and answers about them.

families.toml in the run folder names them, one `name = [generators]` a line; it is learnt from
validation images after training and may be edited. A generator in no family stands for itself.

The probability of a family is the sum of its members' probabilities. Prediction sets and naming
thresholds of families have their own calibration: of the images of known generators, at most a
fraction α on average have a family that is excluded at α, and at most α are named after a wrong
family. As families are learnt on the validation images that calibrate them, this holds but
approximately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import tomli_w
import torch
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import logsumexp

from leakcache.errors import RunError
from leakcache.files import parse_toml
from leaknet.calibration.calibration import Calibration, cut_in_halves
from leaknet.calibration.conformal import naming_threshold, prediction_sets
from leaknet.checksums import is_there, read_text
from leaknet.data.embeddings import Embeddings
from leaknet.files import read_tensors, save_tensors, write_text
from leaknet.model.pair_calibration import clusters
from leaknet.model.protoleaknet import ProtoLeakNet

FILE = "families.toml"
HEADER = """\
# Families of related generators, learnt from validation images. Edit names and members freely:
# `leak score` reads this file. A generator in no family stands for itself.

"""


@dataclass(frozen=True)
class Families:
    """A partition of the known generators.

    Attributes:
        names: of the families, single generators among them under their own name.
        index: family of each class.
    """

    names: tuple[str, ...]
    index: Int[np.ndarray, "class"]

    @classmethod
    def of(cls, members: Mapping[str, tuple[str, ...]], classes: tuple[str, ...]) -> Families:
        """From the members of each family; classes in none are added."""
        family = {one: name for name, ones in members.items() for one in ones}
        names = tuple(dict.fromkeys(family.get(one, one) for one in classes))
        index = np.array([names.index(family.get(one, one)) for one in classes])
        return cls(names, index)

    def log_probabilities(
        self, log_probabilities: Float[np.ndarray, "image class"]
    ) -> Float64[np.ndarray, "image family"]:
        """Natural log of the sum of the members' probabilities."""
        columns = [
            logsumexp(log_probabilities[:, self.index == number], axis=1)
            for number in range(len(self.names))
        ]
        return np.stack(columns, axis=1)

    def members(self, number: int, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Generators of a family."""
        return tuple(one for one, own in zip(classes, self.index == number, strict=True) if own)


@dataclass(frozen=True)
class FamilyCalibration:
    """Families of a run with the conformity of its calibrating images.

    Attributes:
        families: of the run.
        conformity: log probability of its true family, for each calibrating image.
        confidence: log probability of its likeliest family.
    """

    families: Families
    conformity: Float64[np.ndarray, " calibrating"]
    confidence: Float64[np.ndarray, " calibrating"]

    @classmethod
    def fit(
        cls, families: Families, calibration: Calibration, closed: Embeddings
    ) -> FamilyCalibration:
        """Count the calibrating half of the validation images, as `Calibration.fit` does."""
        _, calibrating = cut_in_halves(closed.select("val"))
        found = families.log_probabilities(calibration.log_probabilities(calibrating))
        own = families.index[calibrating.targets]
        return cls(families, found[np.arange(len(own)), own], found.max(axis=1))

    def naming_threshold(self, alpha: float) -> float:
        """The log probability above which a family is named; see `conformal.naming_threshold`."""
        return naming_threshold(self.confidence, self.confidence == self.conformity, alpha)

    def prediction_sets(
        self,
        log_probabilities: Float[np.ndarray, "image family"],
        levels: Float[np.ndarray, " image"],
    ) -> Bool[np.ndarray, "image family"]:
        """Which families can't be excluded at the level of each image."""
        return prediction_sets(self.conformity, log_probabilities, levels)


def write_families(run: Path, families: Mapping[str, Sequence[str]]) -> None:
    """Write families.toml into a run folder."""
    content = tomli_w.dumps({name: list(members) for name, members in families.items()})
    write_text(run / FILE, HEADER + content)


def read_families(run: Path, classes: tuple[str, ...]) -> Families | None:
    """The families of a run; None where it has no families.toml.

    Raises:
        RunError: the file is no TOML, names something else than generators of the run, or has one
            in two families.
    """
    path = run / FILE
    if not is_there(path):
        return None
    try:
        content = parse_toml(read_text(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not readable as TOML ({error}); correct or delete it") from error
    seen: dict[str, str] = {}
    for name, members in content.items():
        if not isinstance(members, list) or not members:
            raise RunError(f"{path}: {name} must be a list of generators: correct it")
        for one in members:
            if one not in classes:
                raise RunError(
                    f"{path}: {name} names {one}, which is no generator of the run: remove it"
                )
            if one in seen:
                raise RunError(f"{path}: {one} is in {seen[one]} and in {name}: remove one of them")
            seen[one] = name
        if name in classes and name not in members:
            raise RunError(f"{path}: {name} is a generator outside the family: rename the family")
    return Families.of({name: tuple(members) for name, members in content.items()}, classes)


def load_families(
    run: Path, calibration: Calibration, closed: Embeddings
) -> FamilyCalibration | None:
    """The families of a run, calibrated; None where it has none; raises as `read_families`."""
    families = read_families(run, closed.classes)
    if families is None or len(families.names) == len(closed.classes):
        return None
    return FamilyCalibration.fit(families, calibration, closed)


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

    The relation of two generators is the mean calibrated log10 ratio that a validation image of
    each have one source, over pairs of different prompts. Average linkage of these relations is a
    tree; cut where clustering of images is (`leaknet.model.pair_calibration`), it gives the
    families.

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
