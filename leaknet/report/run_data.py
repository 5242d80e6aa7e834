"""Everything that a report states: the files of one scored run, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import RunError
from leakcache.files import parse_json, parse_toml
from leaknet.calibration import Calibration, conformal_p_values, score_threshold
from leaknet.calibration.calibration import cut_in_halves
from leaknet.checksums import is_there, read_text
from leaknet.config import LatentConfig, StatisticsConfig
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.model.run_record import CONFIG, RunRecord
from leaknet.scoring.run_embeddings import UNKNOWN
from leaknet.scoring.score_run import ScoreTable, read_score_table
from leaknet.training.run_folder import EpochRecord, RunFolder

ALPHA = 0.05
"""False-alarm rate of the answers that a report counts: the default of `leak score`."""
_SUMMARIES = ("mean", "worst", "sd", "interval")
_NEEDED = ("run", "model", "preset", "seed", "images", "validation", "facts")


@dataclass(frozen=True)
class ScoredRun:
    """A run folder, read.

    Attributes:
        folder: where it is now.
        record: settings, classes and cache.
        versions: of the software that trained it.
        metrics: metrics.json.
        table: the raw scores of every image.
        history: what was measured after each epoch; empty where it was not kept.
        embeddings: of all folds, and of the unknown images where they are those that were
            scored; None where none were kept.
    """

    folder: Path
    record: RunRecord
    versions: dict[str, str]
    metrics: dict[str, Any]
    table: ScoreTable
    history: tuple[EpochRecord, ...]
    embeddings: Embeddings | None

    @classmethod
    def read(cls, folder: Path) -> ScoredRun:
        """Read a run.

        Raises:
            RunError: it is no run, has not been scored, or was trained again since.
        """
        record = RunRecord.read(folder)
        metrics = _read_metrics(folder)
        table = read_score_table(folder)
        embeddings = _embeddings(folder, metrics["model"], table)
        history = tuple(RunFolder(folder).epochs())
        return cls(folder, record, _versions(folder), metrics, table, history, embeddings)

    @property
    def name(self) -> str:
        """Name of the run's folder at the time of scoring."""
        return Path(self.metrics["run"]).name

    @property
    def classes(self) -> tuple[str, ...]:
        """The known generators."""
        return self.record.classes

    @property
    def latents(self) -> LatentConfig | None:
        """Settings of the branch of noisy latents; None for a run without it."""
        found = self.record.config.latents
        return found if found.enabled else None

    @property
    def statistics(self) -> StatisticsConfig | None:
        """Settings of the branch of image statistics; None for a run without it."""
        found = self.record.config.statistics
        return found if found.enabled else None

    @property
    def closed(self) -> dict[str, dict[str, Any]]:
        """Metrics of the two scorers on the test fold and of the first on validation."""
        closed = self.metrics["closed"]
        return {
            "prototype": closed,
            "mahalanobis": closed["mahalanobis"],
            "validation": self.metrics["validation"],
        }

    @property
    def chance(self) -> float:
        """Top-1 of always naming the most frequent generator of the test fold."""
        counts = np.array(self.metrics["closed"]["confusion"]).sum(axis=1)
        return float(counts.max() / counts.sum())

    @property
    def open(self) -> dict[str, Any] | None:
        """Metrics of the reported detector; None without an open set."""
        found: dict[str, Any] | None = self.metrics.get("open")
        return found

    @property
    def detector(self) -> str:
        """Name of the reported detector; empty without an open set."""
        return str(self.open["detector"]) if self.open else ""

    @property
    def unknown(self) -> list[str]:
        """The generators of the open set."""
        if self.open is None:
            return []
        groups = (name for name, value in self.open.items() if isinstance(value, dict))
        return [name for name in groups if name not in _SUMMARIES]

    @cached_property
    def calibration(self) -> Calibration | None:
        """As `leak score IMAGE` uses it; None with fewer than two validation prompt groups."""
        if self.embeddings is None or self._validation_groups < 2:
            return None
        return Calibration.fit(self.embeddings, [])

    @cached_property
    def reference(self) -> np.ndarray | None:
        """Scores of the calibration images, by which p-values rank; None as for `calibration`."""
        if self.embeddings is None or self._validation_groups < 2:
            return None
        val = self.embeddings.select("val")
        _, calibrating = cut_in_halves(val)
        return self.scores(self.detector, "val")[np.isin(val.hashes, calibrating.hashes)]

    @property
    def threshold(self) -> float | None:
        """Scores below it have p ≤ α; None where there are too few calibration images for that."""
        return None if self.reference is None else score_threshold(self.reference, ALPHA)

    def p_values(self, fold: str, generator: str | None = None) -> np.ndarray | None:
        """p-value of each image of a fold or generator; None without a calibration."""
        if self.reference is None:
            return None
        scores = self.scores(self.detector, fold, generator)
        p_values: np.ndarray = conformal_p_values(self.reference, scores)
        return p_values

    @property
    def _validation_groups(self) -> int:
        assert self.embeddings is not None
        return len(set(self.embeddings.select("val").groups.tolist()))

    def area(self, generator: str) -> float:
        """AUROC of the reported detector on one unknown generator."""
        assert self.open is not None
        return float(self.open[generator]["auroc"])

    def scores(self, detector: str, fold: str, generator: str | None = None) -> np.ndarray:
        """Raw scores of a fold, or of one generator in it."""
        rows = self.table.folds == fold
        if generator is not None:
            rows &= self.table.labels == generator
        scores: np.ndarray = self.table.scores[detector][rows]
        return scores


def _read_metrics(folder: Path) -> dict[str, Any]:
    path = RunFolder(folder).metrics
    try:
        metrics: dict[str, Any] = parse_json(read_text(path))
        scored = "closed" in metrics
        absent = [key for key in _NEEDED if key not in metrics]
    except FileNotFoundError:
        scored, absent = False, []
    except (OSError, ValueError) as error:
        raise _unreadable(folder, str(error)) from error
    if not scored:
        raise RunError(f"{folder}: has not been scored; run `leak score --run {folder}` first")
    if absent:
        raise _unreadable(folder, f"no {', '.join(absent)}")
    return metrics


def _embeddings(folder: Path, model: str, table: ScoreTable) -> Embeddings | None:
    path = RunFolder(folder).embeddings
    if not is_there(path):
        return None
    known = Embeddings.load(path)
    if known.run != model:
        raise RunError(
            f"{folder}: its weights changed since it was scored; "
            f"run `leak score --run {folder}` again"
        )
    if not is_there(folder / UNKNOWN):
        return known
    unknown = Embeddings.load(folder / UNKNOWN)
    unknown = unknown.take(~np.isin(unknown.hashes, known.hashes))
    scored = table.labels[table.folds == "open"]
    same = unknown.run == model and np.array_equal(unknown.labels, scored)
    return concatenate([known, unknown]) if same else known


def _unreadable(folder: Path, reason: str) -> RunError:
    return RunError(
        f"{RunFolder(folder).metrics}: cannot be read ({reason}); "
        f"run `leak score --run {folder}` again"
    )


def _versions(folder: Path) -> dict[str, str]:
    table = parse_toml(read_text(folder / CONFIG))
    return {str(name): str(value) for name, value in table["record"].get("versions", {}).items()}
