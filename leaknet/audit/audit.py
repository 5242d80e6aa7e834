"""The audit: what in a data set gives the generator away without any signal leak.

To be read before any training, and beside every result. A control never proves a result wrong;
it says how much of it could be had without the evidence that the result is meant to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leakcache.dataset.index import DatasetIndex
from leaknet.audit.control_classifiers import ClosedControl, ClosedJudge, OpenControl, OpenJudge
from leaknet.audit.cross_validation import by_group, closed_protocol
from leaknet.audit.duplicates import DuplicateSet, exact_duplicates, near_duplicates
from leaknet.audit.fact_table import fact_table
from leaknet.audit.findings import (
    Finding,
    by_severity,
    collection_words,
    counted,
    duplicate_words,
    listing,
    metadata_words,
    native_size_words,
    open_metadata_words,
    open_thumbnail_words,
    shuffle_words,
    thumbnail_words,
    unreadable_words,
)
from leaknet.audit.observations import Observations, observe_data, thumbnail_features


@dataclass(frozen=True)
class Audit:
    """Everything that was found.

    Attributes:
        index: the data.
        seen: what its readable files show, with those of the open sets.
        canonical: side of the canonical form that was judged; None for files as they are.
        metadata, thumbnail: on the known generators; None where fewer than two can be judged.
        open_metadata, open_thumbnail: known against unknown; None without an open set.
        exact, near: pictures that occur twice.
        findings: in words, the gravest first.
    """

    index: DatasetIndex
    seen: Observations
    canonical: int | None
    metadata: ClosedControl | None
    thumbnail: ClosedControl | None
    open_metadata: OpenControl | None
    open_thumbnail: OpenControl | None
    exact: tuple[DuplicateSet, ...]
    near: tuple[DuplicateSet, ...]
    findings: tuple[Finding, ...]

    def as_dict(self, *, paths: bool = True) -> dict[str, Any]:
        """Plain values for JSON; without `paths`, short enough to lie beside every result."""
        result: dict[str, Any] = {
            "data": str(self.index.root),
            "canonical": self.canonical,
            "images": {
                "closed": int((~self.seen.unknown).sum()),
                "open": int(self.seen.unknown.sum()),
                "unreadable": len(self.seen.unreadable),
            },
            "metadata": self.metadata and self.metadata.as_dict(),
            "thumbnail": self.thumbnail and self.thumbnail.as_dict(),
            "open": self.open_metadata
            and self.open_thumbnail
            and {
                "metadata": self.open_metadata.as_dict(),
                "thumbnail": self.open_thumbnail.as_dict(),
            },
            "duplicates": {
                "exact": self._counts(self.exact),
                "near": self._counts(self.near),
            },
            "crossing_groups": len(self.index.crossing_groups),
            "findings": [vars(finding) for finding in self.findings],
        }
        if paths:
            for kind, sets in (("exact", self.exact), ("near", self.near)):
                result["duplicates"][kind]["sets"] = [self._set(s) for s in sets]
            result["unreadable"] = [vars(reject) for reject in self.seen.unreadable]
        return result

    def _counts(self, sets: Sequence[DuplicateSet]) -> dict[str, Any]:
        return {
            "count": len(sets),
            "across_folds": sum(s.crosses_folds for s in sets),
            "across_labels": sum(s.crosses_labels for s in sets),
            "closed_and_open": sum(s.crosses_sets for s in sets),
        }

    def _set(self, found: DuplicateSet) -> dict[str, Any]:
        return {
            "paths": self.seen.paths[list(found.rows)].tolist(),
            "folds": found.folds,
            "labels": found.labels,
            "groups": found.groups,
        }


def audit(
    index: DatasetIndex,
    open_indices: Sequence[DatasetIndex] = (),
    *,
    canonical: int | None = None,
) -> Audit:
    """Look at every file once and run all controls.

    Args:
        index: the data; its own open set, if it has one, is judged as such.
        open_indices: more unknown generators, read with `read_index(root, open_set=True)`.
        canonical: judge the canonical form of this side instead of the files as they are.
    """
    seen = observe_data(index, open_indices, canonical)
    judged, left_out = _judged_classes(seen)
    metadata, thumbnail = _closed(judged, canonical)
    open_metadata, open_thumbnail = _open(seen, canonical)
    columns = (seen.folds, seen.labels, seen.groups)
    exact = exact_duplicates(seen.hashes, *columns)
    near = near_duplicates(seen.phashes, seen.hashes, *columns)
    findings = [
        *_control_findings(metadata, thumbnail, open_metadata, open_thumbnail),
        *_left_out_words(left_out),
        *collection_words(index, seen),
        *duplicate_words(seen, exact, near),
        *(native_size_words(seen, canonical) if canonical and len(seen) else ()),
        *unreadable_words(seen),
    ]
    return Audit(
        index=index,
        seen=seen,
        canonical=canonical,
        metadata=metadata,
        thumbnail=thumbnail,
        open_metadata=open_metadata,
        open_thumbnail=open_thumbnail,
        exact=tuple(exact),
        near=tuple(near),
        findings=by_severity(findings),
    )


def _judged_classes(seen: Observations) -> tuple[Observations, list[str]]:
    """The images of known generators with two prompt groups or more, and the others' names."""
    closed = seen.take(~seen.unknown)
    labels = np.unique(closed.labels).tolist()
    enough = {label: len(np.unique(closed.groups[closed.labels == label])) > 1 for label in labels}
    chosen = np.array([enough[label] for label in closed.labels.tolist()], bool)
    return closed.take(chosen), [label for label in labels if not enough[label]]


def _closed(
    seen: Observations, canonical: int | None
) -> tuple[ClosedControl | None, ClosedControl | None]:
    protocol = closed_protocol(seen.folds, seen.groups)
    if protocol is None or len(np.unique(seen.labels[protocol.judged])) < 2:
        return None, None
    judge = ClosedJudge(seen, protocol)
    table = fact_table(seen.facts, sizes=canonical is None)
    return judge.judge_facts(table), judge.judge(thumbnail_features(seen.thumbnails))


def _open(
    seen: Observations, canonical: int | None
) -> tuple[OpenControl | None, OpenControl | None]:
    protocol = by_group(seen.groups) if len(seen) else None
    if protocol is None or seen.unknown.all() or not seen.unknown.any():
        return None, None
    judge = OpenJudge(seen, protocol)
    table = fact_table(seen.facts, sizes=canonical is None)
    return judge.judge_facts(table), judge.judge(thumbnail_features(seen.thumbnails))


def _control_findings(
    metadata: ClosedControl | None,
    thumbnail: ClosedControl | None,
    open_metadata: OpenControl | None,
    open_thumbnail: OpenControl | None,
) -> Iterator[Finding]:
    if metadata and thumbnail:
        yield metadata_words(metadata)
        yield thumbnail_words(thumbnail)
        if metadata.facts:
            yield shuffle_words("metadata", metadata)
        yield shuffle_words("thumbnail", thumbnail)
    else:
        yield Finding(
            "unsure",
            "metadata",
            "No control could be judged: it takes two known generators with two prompts each.",
        )
    if open_metadata and open_thumbnail:
        yield open_metadata_words(open_metadata)
        yield open_thumbnail_words(open_thumbnail)


def _left_out_words(labels: Sequence[str]) -> Iterator[Finding]:
    if labels:
        yield Finding(
            "unsure",
            "classes",
            f"{counted(len(labels), 'generator')} with images of a single prompt "
            f"({listing(labels)}): left out of the controls; add prompts.",
        )
