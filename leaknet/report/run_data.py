"""Everything that a report is made from: the files of one scored run, and nothing else."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import RunError
from leaknet.calibration import Calibration
from leaknet.calibration.split_half import cut_in_halves
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.model.run_record import CONFIG, RunRecord
from leaknet.scoring.run_embeddings import UNKNOWN
from leaknet.scoring.score_table import ScoreTable, read_score_table
from leaknet.training.history import EpochRecord, read_history
from leaknet.training.run_folder import RunFolder

_SUMMARIES = ("mean", "worst", "sd", "interval")
_NEEDED = ("run", "model", "preset", "seed", "images", "validation", "facts")


@dataclass(frozen=True)
class ScoredRun:
    """A run folder, read.

    Attributes:
        record: settings, classes and cache.
        versions: of the software that trained it.
        metrics: metrics.json.
        table: the raw scores of every image.
        history: what was measured after each epoch; empty where it was not kept.
        embeddings: of all folds, and of the unknown images where they are those that were
            scored; None where none were kept.
    """

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
        history = tuple(read_history(folder))
        return cls(record, _versions(folder), metrics, table, history, embeddings)

    @property
    def name(self) -> str:
        """The run's folder at the time of scoring, without what leads to it."""
        return Path(self.metrics["run"]).name

    @property
    def classes(self) -> tuple[str, ...]:
        """The known generators."""
        return self.record.classes

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
        """Top-1 of naming the commonest generator of the test fold every time."""
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
        """Of the probabilities, as `leak score IMAGE` has it; None without validation prompts."""
        if self.embeddings is None or self._validation_prompts < 2:
            return None
        return Calibration.fit(self.embeddings, [])

    @cached_property
    def reference(self) -> np.ndarray | None:
        """Scores of the validation images that p-values count; None as for `calibration`."""
        if self.embeddings is None or self._validation_prompts < 2:
            return None
        val = self.embeddings.select("val")
        _, calibrating = cut_in_halves(val)
        return self.scores(self.detector, "val")[np.isin(val.hashes, calibrating.hashes)]

    @property
    def _validation_prompts(self) -> int:
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
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
    if not path.is_file():
        return None
    known = Embeddings.load(path)
    if known.run != model:
        raise RunError(
            f"{folder}: its weights changed since it was scored; "
            f"run `leak score --run {folder}` again"
        )
    if not (folder / UNKNOWN).is_file():
        return known
    strangers = Embeddings.load(folder / UNKNOWN)
    strangers = strangers.take(~np.isin(strangers.hashes, known.hashes))
    scored = table.labels[table.folds == "open"]
    same = strangers.run == model and np.array_equal(strangers.labels, scored)
    return concatenate([known, strangers]) if same else known


def _unreadable(folder: Path, reason: str) -> RunError:
    return RunError(
        f"{RunFolder(folder).metrics}: cannot be read ({reason}); "
        f"run `leak score --run {folder}` again"
    )


def _versions(folder: Path) -> dict[str, str]:
    table = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return {str(name): str(value) for name, value in table["record"].get("versions", {}).items()}
