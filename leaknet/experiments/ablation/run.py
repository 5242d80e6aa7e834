"""Run a table: every row from one cache, each run once, a failed row beside those that ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from jaxtyping import Float, Float64

from leakcache.encoder.weights import answers
from leakcache.errors import LeakError, WeightsError
from leaknet.config import RunConfig, differences
from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.closed_set import summarise_closed
from leaknet.evaluation.open_set import Detection, summarise_open
from leaknet.evaluation.summary import Judge, Summary, Values, Weights, over_seeds
from leaknet.experiments.ablation.caches import CachePool
from leaknet.experiments.ablation.spec import CLOSED, Ablation, Row, Scoring
from leaknet.experiments.ablation.tables import AblationResult, RowResult
from leaknet.experiments.attention_modes import REPORTED, summarise_modes
from leaknet.experiments.task import Task
from leaknet.experiments.trial import RowRuns, Trial
from leaknet.metrics import closed_values, roc
from leaknet.model.backbone import build_backbone, describe_patches
from leaknet.scoring.run_embeddings import CPU

# From the runs of a row to its figures, and to their difference from another row's.


@dataclass(frozen=True)
class Judged:
    """What the runs of a row say, one entry a seed.

    Attributes:
        tests: the test fold.
        scores: the class scores of its images.
        detections: known against unknown; empty without an open set.
    """

    tests: tuple[Embeddings, ...]
    scores: tuple[Float[np.ndarray, "n class"], ...]
    detections: tuple[Detection, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], scoring: Scoring) -> Judged:
        """Score the runs in one way."""
        logits = scoring.naming == "prototype"
        return cls(
            tuple(one.test for one in trials),
            tuple(
                one.test.logits if logits else one.scorers.naming.class_scores(one.test)
                for one in trials
            ),
            tuple(
                Detection.of(one.scorers.detectors[0], one.val, one.test, one.unknown)
                for one in trials
                if one.unknown is not None
            ),
        )

    def figures(self) -> tuple[dict[str, Summary], dict[str, Summary]]:
        """By key of `MEASURES`, and the area of each generator by its name."""
        closed = summarise_closed(self.tests, self.scores)
        found = {key: closed.metrics[key] for key in CLOSED}
        if self.detections:
            opened = summarise_open("", [[one] for one in self.detections])
            found["open_auroc"] = opened.pooled["auroc"]
        return found, closed.classes

    def minus(self, other: Judged) -> dict[str, Summary]:
        """Differences of `COMPARED`, seed by seed on the same images and resamples."""
        pairs = zip(self._pairs, other._pairs, strict=True)
        closed = [_closed_judge(mine, theirs) for mine, theirs in pairs]
        found = over_seeds(closed, [self.tests[0].groups])
        if self.detections and other.detections:
            ours, theirs = self.detections, other.detections
            judges = [_open_judge(a, b) for a, b in zip(ours, theirs, strict=True)]
            found |= over_seeds(judges, [ours[0].known_groups, ours[0].unknown_groups])
        return {metric: summary for (_, metric), summary in found.items()}

    @property
    def _pairs(self) -> list[tuple[Embeddings, np.ndarray]]:
        return list(zip(self.tests, self.scores, strict=True))


def mode_figures(trials: Sequence[Trial], mode: str) -> dict[str, Summary]:
    """One attention mode of Table 2: unknown generators, and its controls.

    Raises:
        ScoringError: the model has no gate, or too few prompt groups for a control.
    """
    gates = [trial.run.load_model(CPU).gate for trial in trials]
    unknown = [trial.unknown for trial in trials if trial.unknown is not None]
    found = summarise_modes([trial.known for trial in trials], unknown, gates, [mode])[mode]
    opened = found.unknown or {}
    figures = {f"open_{name}": opened[name] for name in REPORTED if name in opened}
    figures |= {f"control_{name}": found.control[name] for name in REPORTED}
    return figures | {"untrained_auroc": found.control_untrained["auroc"]}


def _closed_judge(
    mine: tuple[Embeddings, np.ndarray], other: tuple[Embeddings, np.ndarray]
) -> Judge:
    def values(one: tuple[Embeddings, np.ndarray], weights: Weights | None) -> Values:
        found = closed_values(one[1], one[0].targets, weights)
        return {("", key): found[key] for key in CLOSED}

    def judge(weights: Sequence[Weights] | None) -> Values:
        own = None if weights is None else weights[0]
        a, b = values(mine, own), values(other, own)
        return {key: a[key] - b[key] for key in a}

    return judge


def _open_judge(mine: Detection, other: Detection) -> Judge:
    def area(one: Detection, weights: Sequence[Weights]) -> Float64[np.ndarray, "resample"]:
        return roc(one.known, one.unknown, *weights).auroc()

    def judge(weights: Sequence[Weights] | None) -> Values:
        plain = [np.ones((1, len(part))) for part in (mine.known, mine.unknown)]
        given = plain if weights is None else weights
        return {("", "open_auroc"): area(mine, given) - area(other, given)}

    return judge


# Pretrained weights where they can be had, else none, and words that say which.

_FILES = ("model.safetensors", "pytorch_model.bin")


def with_pretrained(config: RunConfig, pretrained: bool) -> RunConfig:
    """The same settings, started from timm's weights or from none."""
    return replace(config, model=replace(config.model, pretrained=pretrained))


def pretrained_if_available(
    config: RunConfig, shape: tuple[int, int, int]
) -> tuple[RunConfig, str]:
    """Settings that can be run here, and which weights they start from.

    Args:
        config: settings of a row.
        shape: of a latent: channel, height, width.

    Raises:
        ConfigError: there is no such backbone, or it cannot take such latents.
    """
    name = config.model.backbone
    scratch = with_pretrained(config, False)
    if not _worth_trying(name):
        return scratch, "from scratch: no weights on this disk, no hub in reach"
    wanted = with_pretrained(config, True)
    try:
        build_backbone(wanted.model, shape[0], shape[1:])
    except WeightsError:
        return scratch, "from scratch: the hub does not give its weights"
    return wanted, pretrained_words(name)


def pretrained_words(backbone: str) -> str:
    """Which weights a pretrained backbone starts from."""
    return f"pretrained: {getattr(timm.get_pretrained_cfg(backbone), 'hf_hub_id', backbone)}"


def _worth_trying(backbone: str) -> bool:
    """False where a request would only time out, after a minute of trying."""
    repository = getattr(timm.get_pretrained_cfg(backbone), "hf_hub_id", None)
    if repository is None or constants.HF_HUB_OFFLINE:
        return repository is not None and _on_disk(repository)
    return _on_disk(repository) or answers(constants.ENDPOINT)


def _on_disk(repository: str) -> bool:
    found = (try_to_load_from_cache(repository, file) for file in _FILES)
    return any(isinstance(path, str) for path in found)


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


def run_ablation(request: Request, shelf: CachePool) -> AblationResult:
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
    shelf: CachePool
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
