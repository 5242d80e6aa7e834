"""What an ablation found, row by row, and its layout as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaknet.config import RunConfig, config_to_table
from leaknet.evaluation.summary import Summary
from leaknet.experiments.ablation.spec import Ablation, Row


@dataclass(frozen=True)
class RowResult:
    """One row.

    Attributes:
        row: what was asked.
        reason: why there are no figures; empty where there are.
        figures: by key of `MEASURES`.
        classes: one-vs-rest area of each generator; empty for attention modes.
        difference: from the reference row, by key of `COMPARED`; empty where there is none.
        settings: what of the run differs from the common settings, in words.
        notes: what must be read with the figures.
        runs: folders, one a seed.
        trained: how many of them were trained now, or trained further.
        parameters: of the network.
        training_seconds: all that its runs ever took to train.
        seconds: what the row took now.
    """

    row: Row
    reason: str = ""
    figures: Mapping[str, Summary] = field(default_factory=dict)
    classes: Mapping[str, Summary] = field(default_factory=dict)
    difference: Mapping[str, Summary] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    runs: tuple[Path, ...] = ()
    trained: int = 0
    parameters: int | None = None
    training_seconds: float = 0.0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: figures on top, `sd`, `interval` and `seeds` beside them."""
        return {
            "name": self.row.name,
            **{key: one.value for key, one in self.figures.items()},
            "sd": {key: one.sd for key, one in self.figures.items()},
            "interval": {key: one.interval for key, one in self.figures.items()},
            "seeds": {key: list(one.seeds) for key, one in self.figures.items()},
            "published": dict(self.row.published),
            "difference": {key: _plain(one) for key, one in self.difference.items()},
            "per_class_auc": {name: one.value for name, one in self.classes.items()},
            "settings": list(self.settings),
            "notes": list(self.notes),
            "parameters": self.parameters,
            "trained": self.trained,
            "training_seconds": self.training_seconds,
            "seconds": self.seconds,
            "runs": [str(run) for run in self.runs],
            "reason": self.reason,
        }


@dataclass(frozen=True)
class AblationResult:
    """A whole table, or as much of it as there is yet.

    Attributes:
        ablation: what was asked.
        base: the common settings; their seed is the first one.
        seeds: how many.
        cache: folder of the main cache.
        fingerprint: of that cache.
        encoded: images that went through an encoder for this table.
        rows: in the order of the table.
    """

    ablation: Ablation
    base: RunConfig
    seeds: int
    cache: Path
    fingerprint: str
    encoded: int
    rows: tuple[RowResult, ...]

    @property
    def trained(self) -> int:
        """Runs that were trained now."""
        return sum(row.trained for row in self.rows)

    @property
    def reused(self) -> int:
        """Uses of runs that were finished before."""
        return sum(len(row.runs) - row.trained for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        first = self.base.train.seed
        return {
            "ablation": self.ablation.key,
            "title": self.ablation.title,
            "cache": str(self.cache),
            "fingerprint": self.fingerprint,
            "base": config_to_table(self.base),
            "seeds": list(range(first, first + self.seeds)),
            "reference": self.ablation.reference,
            "encoded": self.encoded,
            "trained": self.trained,
            "reused": self.reused,
            "rows": [row.as_dict() for row in self.rows],
        }


def _plain(summary: Summary) -> dict[str, Any]:
    return {"value": summary.value, "sd": summary.sd, "interval": summary.interval}
