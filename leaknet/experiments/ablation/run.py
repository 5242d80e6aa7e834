"""Run a table: every row from one cache, each run once, a failed row beside those that ran."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from leakcache.errors import LeakError
from leaknet.config import RunConfig, differences
from leaknet.experiments.ablation.caches import Shelf
from leaknet.experiments.ablation.fold_ablation_judging import Judged, mode_figures
from leaknet.experiments.ablation.fold_ablation_pretrained import (
    pretrained_if_available,
    pretrained_words,
    with_pretrained,
)
from leaknet.experiments.ablation.spec import Ablation, Row
from leaknet.experiments.ablation.tables import AblationResult, RowResult
from leaknet.experiments.fold_ablation_runs import RowRuns
from leaknet.experiments.task import Task
from leaknet.experiments.trial import Trial
from leaknet.model.backbone import describe_patches
from leaknet.scoring.run_embeddings import CPU

RUNS = "runs"


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        ablation: the table.
        base: settings that all rows start from; their seed is the first one.
        seeds: how many, 1 or more.
        out: folder of the results; the runs lie below it, shared by all tables.
        device: where to compute.
        force: leave open images out that are also closed ones, instead of refusing.
        on_start: called with a row and the number of a run, before that run.
        on_result: called after each row with the table so far and with that row.
    """

    ablation: Ablation
    base: RunConfig
    seeds: int
    out: Path
    device: torch.device = CPU
    force: bool = False
    on_start: Callable[[Row, int], object] = _ignore
    on_result: Callable[[AblationResult, RowResult], object] = _ignore


def run_ablation(request: Request, shelf: Shelf) -> AblationResult:
    """Bring every row to its figures; the same call goes on where an earlier one stopped.

    Args:
        request: the table and its settings.
        shelf: the caches.

    Raises:
        ConfigError: a row has a setting that is unknown or out of range; nothing ran then.
    """
    ablation = request.ablation
    configs = {
        row.name: row.configured(request.base, f"{ablation.key}.toml") for row in ablation.rows
    }
    table = _Table(request, shelf)
    # The row that others are compared with comes first, wherever it stands in the table.
    for row in sorted(ablation.rows, key=lambda row: row.name != ablation.reference):
        done = table.add(row, configs[row.name])
        request.on_result(table.result(), done)
    return table.result()


@dataclass
class _Table:
    """The rows that are done."""

    request: Request
    shelf: Shelf
    done: dict[str, RowResult] = field(default_factory=dict)
    reference: Judged | None = None

    def add(self, row: Row, config: RunConfig) -> RowResult:
        """Run a row; where it fails, its reason is kept in place of figures."""
        start = time.perf_counter()
        try:
            found = self._run(row, config)
        # torch reports what a model or a machine cannot do as a RuntimeError.
        except (LeakError, RuntimeError, MemoryError) as error:
            found = RowResult(row, reason=_one_line(error))
        self.done[row.name] = replace(found, seconds=time.perf_counter() - start)
        return self.done[row.name]

    def result(self) -> AblationResult:
        """The table as far as it has come."""
        request, main = self.request, self.shelf.main
        return AblationResult(
            ablation=request.ablation,
            base=request.base,
            seeds=request.seeds,
            cache=main.path,
            fingerprint=main.manifest.fingerprint,
            encoded=self.shelf.encoded,
            rows=tuple(
                self.done[row.name] for row in request.ablation.rows if row.name in self.done
            ),
        )

    def _run(self, row: Row, config: RunConfig) -> RowResult:
        cache = self.shelf.find(row.cache)
        task = self.shelf.task(cache, config.features)
        config, note = self._weights(row, config, task)
        runs = self._runs(config, task)
        left = runs.unfinished
        trials = runs.trials(
            task,
            (row.score.kind,),
            self.request.device,
            force=self.request.force,
            on_run=lambda number: self.request.on_start(row, number),
        )
        notes = [row.note, note]
        if cache is not self.shelf.main:
            notes.append(f"cache {cache.path.parent}")
        result = RowResult(
            row=row,
            settings=tuple(differences(self.request.base, config)),
            runs=runs.folders,
            trained=left,
            training_seconds=sum(e.seconds for one in trials for e in one.run.epochs()),
        )
        return self._judged(result, trials, notes)

    def _judged(self, result: RowResult, trials: list[Trial], notes: list[str]) -> RowResult:
        """Add what the runs say, and what their network is."""
        model = trials[0].run.load_model(CPU)
        notes.append(describe_patches(model.backbone, model.shape[1:]))
        result = replace(
            result,
            notes=tuple(note for note in notes if note),
            parameters=model.size,
        )
        score = result.row.score
        if score.attention:
            return replace(result, figures=mode_figures(trials, score.attention))
        judged = Judged.of(trials, score)
        figures, classes = judged.figures()
        if result.row.name == self.request.ablation.reference:
            self.reference = judged
            return replace(result, figures=figures, classes=classes)
        difference = judged.minus(self.reference) if self.reference else {}
        return replace(result, figures=figures, classes=classes, difference=difference)

    def _weights(self, row: Row, config: RunConfig, task: Task) -> tuple[RunConfig, str]:
        """Which weights to start from, decided once for all seeds of the row."""
        if not row.prefer_pretrained:
            return config, ""
        wanted = with_pretrained(config, True)
        if not self._runs(wanted, task).unfinished:
            return wanted, pretrained_words(config.model.backbone)
        return pretrained_if_available(config, task.data.train.shape)

    def _runs(self, config: RunConfig, task: Task) -> RowRuns:
        return RowRuns.of(config, self.request.seeds, task, self.request.out / RUNS)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
