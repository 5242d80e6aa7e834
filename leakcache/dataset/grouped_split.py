"""Cut folds by prompt group: seeded, stratified by class, whatever the file system's order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from leakcache.dataset.records import CUT_FOLDS

FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}
# Ties go to the larger fold, so that a class of one or two groups can at least be trained on.
_BY_SIZE = tuple(sorted(CUT_FOLDS, key=lambda fold: -FRACTIONS[fold]))
_FEWEST = len(CUT_FOLDS)
_MOST_MOVES = 100


def cut_folds(images: Iterable[tuple[str, str]], seed: int = 0) -> dict[str, str]:
    """Fold of every group, given (group, label) once for each image.

    Groups are dealt one at a time, the largest first and otherwise in an order drawn from the
    seed, to the fold in which they bring every class closest to half training, a fifth
    validation and three tenths test: the fall of Σ over classes and folds of (images there −
    images due)² / (images of the class)². Groups are then moved until every class of three or
    more has all three folds, as far as the classes that share them allow.
    """
    deal = _GroupAssignment(_label_counts(images))
    for group in sorted(deal.labels, key=lambda g: (-deal.labels[g].total(), _draw(g, seed))):
        deal.put(group, min(_BY_SIZE, key=lambda fold: deal.cost(group, fold)))
    _repair(deal)
    return {group: deal.folds[group] for group in sorted(deal.folds)}


def _label_counts(images: Iterable[tuple[str, str]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for group, label in sorted(images):
        counts.setdefault(group, Counter())[label] += 1
    return counts


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()


@dataclass
class _GroupAssignment:
    """Which group is in which fold so far, with images and groups counted by (label, fold)."""

    labels: dict[str, Counter[str]]
    folds: dict[str, str] = field(default_factory=dict)
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)
    members: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, counts in self.labels.items():
            self.size.update(counts)
            for label in counts:
                self.members.setdefault(label, []).append(group)

    def cost(self, group: str, fold: str) -> float:
        """Change of the objective if the group joined the fold, less what all folds share."""
        return sum(
            count
            * (self.images[label, fold] - FRACTIONS[fold] * self.size[label])
            / self.size[label] ** 2
            for label, count in self.labels[group].items()
        )

    def put(self, group: str, fold: str) -> None:
        """Move the group to the fold, from wherever it was."""
        before = self.folds.get(group)
        for label, count in self.labels[group].items():
            if before is not None:
                self.images[label, before] -= count
                self.groups[label, before] -= 1
            self.images[label, fold] += count
            self.groups[label, fold] += 1
        self.folds[group] = fold

    def missing(self) -> list[tuple[str, str]]:
        """(label, fold) pairs without a group, of the classes that have groups enough."""
        return [
            (label, fold)
            for label, groups in sorted(self.members.items())
            for fold in CUT_FOLDS
            if len(groups) >= _FEWEST and not self.groups[label, fold]
        ]


def _repair(deal: _GroupAssignment) -> None:
    """Give lacking classes their folds: the best move at a time, each group once, keep the best.

    A move may rob another class, which a later one makes good: so swaps and rings are found.
    """
    fewest = len(deal.missing())
    if not fewest:
        return
    moved: set[str] = set()
    best = dict(deal.folds)
    while fewest:
        moves = [
            (group, fold)
            for label, fold in deal.missing()
            for group in deal.members[label]
            if group not in moved
        ]
        if not moves or len(moved) == _MOST_MOVES:
            break
        group, fold = min(moves, key=lambda move: _after(deal, *move))
        deal.put(group, fold)
        moved.add(group)
        if len(deal.missing()) < fewest:
            best, fewest = dict(deal.folds), len(deal.missing())
    for group, fold in best.items():
        deal.put(group, fold)


def _after(deal: _GroupAssignment, group: str, fold: str) -> tuple[int, float]:
    """Pairs still missing and change of the objective if the group moved; nothing is moved."""
    origin = deal.folds[group]
    change = deal.cost(group, fold) - deal.cost(group, origin)
    deal.put(group, fold)
    missing = len(deal.missing())
    deal.put(group, origin)
    return missing, change
