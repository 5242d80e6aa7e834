"""The audit: how much of an attribution score a data set allows without any signal leak.

A control does not prove a result wrong. It measures the score that evidence other than a signal
leak already gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leakcache.dataset.index import DatasetIndex
from leaknet.audit.control_classifiers import (
    ClosedControl,
    ClosedEvaluator,
    Control,
    Evaluator,
    OpenControl,
    OpenEvaluator,
    closed_protocol,
    group_protocol,
)
from leaknet.audit.file_facts import fact_table
from leaknet.audit.findings import (
    Finding,
    by_severity,
    collection_findings,
    counted,
    duplicate_findings,
    listing,
    metadata_finding,
    native_size_findings,
    open_metadata_finding,
    open_thumbnail_finding,
    shuffle_finding,
    thumbnail_finding,
    unreadable_findings,
)
from leaknet.audit.observations import (
    DuplicateSet,
    Observations,
    exact_duplicates,
    near_duplicates,
    observe_data,
    thumbnail_features,
)


@dataclass(frozen=True)
class Audit:
    """Result of all controls on one data set.

    Attributes:
        index: the data set.
        observations: of all readable files, open sets included.
        canonical: side of the canonical form that was audited; None for the files themselves.
        metadata, thumbnail: controls on the known generators; None with fewer than two of them.
        open_metadata, open_thumbnail: known against unknown; None without an open set.
        exact, near: images that occur more than once.
        findings: one sentence each, most severe first.
    """

    index: DatasetIndex
    observations: Observations
    canonical: int | None
    metadata: ClosedControl | None
    thumbnail: ClosedControl | None
    open_metadata: OpenControl | None
    open_thumbnail: OpenControl | None
    exact: tuple[DuplicateSet, ...]
    near: tuple[DuplicateSet, ...]
    findings: tuple[Finding, ...]

    def as_dict(self, *, paths: bool = True) -> dict[str, Any]:
        """Plain values for JSON; without `paths`, no lists of files."""
        unknown = self.observations.unknown
        result: dict[str, Any] = {
            "data": str(self.index.root),
            "canonical": self.canonical,
            "images": {
                "closed": int((~unknown).sum()),
                "open": int(unknown.sum()),
                "unreadable": len(self.observations.unreadable),
            },
            "metadata": self.metadata and self.metadata.as_dict(),
            "thumbnail": self.thumbnail and self.thumbnail.as_dict(),
            "open": self.open_metadata
            and self.open_thumbnail
            and {
                "metadata": self.open_metadata.as_dict(),
                "thumbnail": self.open_thumbnail.as_dict(),
            },
            "duplicates": {"exact": _counts(self.exact), "near": _counts(self.near)},
            "crossing_groups": len(self.index.crossing_groups),
            "findings": [vars(finding) for finding in self.findings],
        }
        if paths:
            for kind, sets in (("exact", self.exact), ("near", self.near)):
                result["duplicates"][kind]["sets"] = [self._members(s) for s in sets]
            result["unreadable"] = [vars(reject) for reject in self.observations.unreadable]
        return result

    def _members(self, duplicates: DuplicateSet) -> dict[str, Any]:
        return {
            "paths": self.observations.paths[list(duplicates.rows)].tolist(),
            "folds": duplicates.folds,
            "labels": duplicates.labels,
            "groups": duplicates.groups,
        }


def _counts(sets: Sequence[DuplicateSet]) -> dict[str, Any]:
    return {
        "count": len(sets),
        "across_folds": sum(s.crosses_folds for s in sets),
        "across_labels": sum(s.crosses_labels for s in sets),
        "closed_and_open": sum(s.crosses_sets for s in sets),
    }


def audit(
    index: DatasetIndex,
    open_indices: Sequence[DatasetIndex] = (),
    *,
    canonical: int | None = None,
) -> Audit:
    """Read every file once and run all controls.

    Args:
        index: the data set, with its own open set if it has one.
        open_indices: further unknown generators, from `read_index(root, open_set=True)`.
        canonical: audit the canonical form of this side instead of the files themselves.
    """
    observations = observe_data(index, open_indices, canonical)
    usable, single_prompt = _usable_classes(observations)
    metadata, thumbnail = _closed_controls(usable, canonical)
    open_metadata, open_thumbnail = _open_controls(observations, canonical)
    columns = (observations.folds, observations.labels, observations.groups)
    exact = exact_duplicates(observations.hashes, *columns)
    near = near_duplicates(observations.phashes, observations.hashes, *columns)
    findings = [
        *_control_findings(metadata, thumbnail, open_metadata, open_thumbnail),
        *_single_prompt_findings(single_prompt),
        *collection_findings(index, observations),
        *duplicate_findings(observations, exact, near),
        *(native_size_findings(observations, canonical) if canonical else ()),
        *unreadable_findings(observations),
    ]
    return Audit(
        index=index,
        observations=observations,
        canonical=canonical,
        metadata=metadata,
        thumbnail=thumbnail,
        open_metadata=open_metadata,
        open_thumbnail=open_thumbnail,
        exact=tuple(exact),
        near=tuple(near),
        findings=by_severity(findings),
    )


def _usable_classes(observations: Observations) -> tuple[Observations, list[str]]:
    """Images of known generators with at least two prompt groups, and the names of the others."""
    closed = observations.take(~observations.unknown)
    labels = np.unique(closed.labels).tolist()
    usable = {label: len(np.unique(closed.groups[closed.labels == label])) > 1 for label in labels}
    chosen = np.array([usable[label] for label in closed.labels.tolist()], bool)
    return closed.take(chosen), [label for label in labels if not usable[label]]


def _closed_controls(
    observations: Observations, canonical: int | None
) -> tuple[ClosedControl | None, ClosedControl | None]:
    protocol = closed_protocol(observations.folds, observations.groups)
    if protocol is None or len(np.unique(observations.labels[protocol.evaluated])) < 2:
        return None, None
    return _controls(ClosedEvaluator(observations, protocol), observations, canonical)


def _open_controls(
    observations: Observations, canonical: int | None
) -> tuple[OpenControl | None, OpenControl | None]:
    unknown = observations.unknown
    protocol = group_protocol(observations.groups)
    if protocol is None or unknown.all() or not unknown.any():
        return None, None
    return _controls(OpenEvaluator(observations, protocol), observations, canonical)


def _controls(
    evaluator: Evaluator[Control], observations: Observations, canonical: int | None
) -> tuple[Control, Control]:
    """The metadata control and the thumbnail control."""
    table = fact_table(observations.facts, sizes=canonical is None)
    thumbnails = thumbnail_features(observations.thumbnails)
    return evaluator.evaluate_facts(table), evaluator.evaluate(thumbnails)


def _control_findings(
    metadata: ClosedControl | None,
    thumbnail: ClosedControl | None,
    open_metadata: OpenControl | None,
    open_thumbnail: OpenControl | None,
) -> Iterator[Finding]:
    if metadata and thumbnail:
        yield metadata_finding(metadata)
        yield thumbnail_finding(thumbnail)
        if metadata.facts:
            yield shuffle_finding("metadata", metadata)
        yield shuffle_finding("thumbnail", thumbnail)
    else:
        yield Finding(
            "unsure",
            "metadata",
            "No control was evaluated: it needs two known generators with two prompts each.",
        )
    if open_metadata and open_thumbnail:
        yield open_metadata_finding(open_metadata)
        yield open_thumbnail_finding(open_thumbnail)


def _single_prompt_findings(labels: Sequence[str]) -> Iterator[Finding]:
    if labels:
        yield Finding(
            "unsure",
            "classes",
            f"{counted(len(labels), 'generator')} with images of a single prompt "
            f"({listing(labels)}): excluded from the controls; add prompts.",
        )
