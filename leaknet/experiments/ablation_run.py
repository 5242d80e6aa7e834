"""Run a table: every row from one cache, each run once; a failed row keeps its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import timm
from huggingface_hub import constants, try_to_load_from_cache

from leakcache.encoder.weights import answers
from leakcache.errors import CacheError, LeakError, WeightsError
from leakcache.store.build import ensure_columns, open_set_builds
from leakcache.store.cache import Cache
from leaknet.config import RunConfig, differences
from leaknet.experiments.ablation_spec import CLOSED, Ablation, CacheRequirement, Row
from leaknet.experiments.ablation_tables import AblationResult
from leaknet.experiments.controls import REPORTED, gate_of, summarise_modes
from leaknet.experiments.tables import Job, Outcome, RowResult, run_jobs
from leaknet.experiments.trial import (
    CPU,
    ClosedSet,
    Plan,
    RunTrial,
    Task,
    Training,
    evaluated,
    run_folders,
    run_trials,
    seeded,
    train_on_actors,
    trainings,
    unfinished,
)
from leaknet.metrics.detection import OPEN
from leaknet.metrics.summary import Summary
from leaknet.model.backbone import build_backbone
from leaknet.model.backbone import describe_patches as patches
from leaknet.model.latent_branch import LatentBranch
from leaknet.scoring.run_embeddings import open_splits

RUNS = "runs"


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class AblationPlan(Plan):
    """A table and the settings that its rows start from; detectors are named by the rows.

    Attributes:
        ablation: the table.
        base: settings that all rows start from; their seed is the first one.
        on_start: called with a row and the number of a run, before that run.
        on_rows: called after each row with the table so far and with that row.
    """

    ablation: Ablation
    base: RunConfig
    on_start: Callable[[Row, int], object] = _ignore
    on_rows: Callable[[AblationResult, RowResult], object] = _ignore


def run_ablation(plan: AblationPlan, pool: CachePool) -> AblationResult:
    """Finish every row; the same call resumes where an earlier one stopped.

    Runs lie below `plan.out`, shared by all tables.

    Raises:
        ConfigError: a row has a setting that is unknown or out of range; nothing ran then.
    """
    ablation = plan.ablation
    source = f"{ablation.key}.toml"
    configured = [row.configured(plan.base, source) for row in ablation.rows]
    jobs = [
        Job(
            (RowResult(row.name, published=row.published),), partial(_run_row, plan, pool, row, one)
        )
        for row, one in zip(ablation.rows, configured, strict=True)
    ]
    if plan.pool:
        train_on_actors(plan.pool, _trainings(plan, pool, configured))

    def result(rows: tuple[RowResult, ...]) -> AblationResult:
        main = pool.main
        fingerprint = main.manifest.fingerprint
        return AblationResult(
            ablation, plan.base, plan.seeds, main.path, fingerprint, pool.encoded, rows
        )

    return result(
        run_jobs(jobs, ablation.reference, lambda rows, new: plan.on_rows(result(rows), new[0]))
    )


def _trainings(
    plan: AblationPlan, pool: CachePool, configured: Sequence[RunConfig]
) -> list[Training]:
    """All runs of the table, but for rows that cannot run: `_run_row` says why."""
    found: list[Training] = []
    for row, config in zip(plan.ablation.rows, configured, strict=True):
        with suppress(LeakError, RuntimeError, MemoryError):
            task = pool.task(pool.find(row.cache), config)
            mine, _ = _with_weights(plan, row, config, task)
            folders = run_folders(mine, plan.seeds, task, plan.out / RUNS)
            found += trainings(partial(_same, task), seeded(mine, plan.seeds), folders, plan)
    return found


def _same(task: Task) -> Task:
    return task


def _run_row(plan: AblationPlan, pool: CachePool, row: Row, config: RunConfig) -> list[Outcome]:
    cache = pool.find(row.cache)
    task = pool.task(cache, config)
    config, weights = _with_weights(plan, row, config, task)
    folders = run_folders(config, plan.seeds, task, plan.out / RUNS)
    left = unfinished(folders)
    trials = run_trials(
        task,
        seeded(config, plan.seeds),
        folders,
        plan,
        kinds=(row.score.kind,),
        on_run=partial(plan.on_start, row),
    )
    model = trials[0].run.load_model(CPU)
    elsewhere = "" if cache is pool.main else f"cache {cache.path.parent}"
    notes = (row.note, weights, elsewhere, describe_patches(model.latents))
    result = RowResult(
        row.name,
        published=row.published,
        settings=tuple(differences(plan.base, config)),
        notes=tuple(note for note in notes if note),
        runs=tuple(folders),
        trained=left,
        parameters=model.size,
        seconds=sum(epoch.seconds for one in trials for epoch in one.run.epochs()),
    )
    return [_with_figures(result, row, trials)]


def _with_figures(result: RowResult, row: Row, trials: Sequence[RunTrial]) -> Outcome:
    if row.score.attention:
        return Outcome(replace(result, figures=mode_figures(trials, row.score.attention)))
    logits = row.score.naming == "prototype"
    found = evaluated(trials, None if logits else [one.mahalanobis_scores for one in trials])
    closed, opened = found.closed(), found.open()
    figures = {key: closed.metrics[key] for key in CLOSED if key in closed.metrics}
    if opened is not None:
        figures |= {OPEN + key: opened.pooled[key] for key in ("auroc", "oscr")}
    return Outcome(replace(result, figures=figures, per_class_auc=closed.per_class_auc), found)


def mode_figures(trials: Sequence[RunTrial], mode: str) -> dict[str, Summary]:
    """One attention mode of Table 2: unknown generators, and its controls.

    Raises:
        ScoringError: the model has no gate, or too few prompt groups for a control.
    """
    gates = [gate_of(trial.run.load_model(CPU)) for trial in trials]
    unknown = [trial.unknown for trial in trials if trial.unknown is not None]
    found = summarise_modes([trial.known for trial in trials], unknown, gates, [mode])[mode]
    opened = found.unknown or {}
    figures = {f"open_{name}": opened[name] for name in REPORTED if name in opened}
    figures |= {f"control_{name}": found.control[name] for name in REPORTED}
    return figures | {"untrained_auroc": found.control_untrained["auroc"]}


def _with_weights(
    plan: AblationPlan, row: Row, config: RunConfig, task: Task
) -> tuple[RunConfig, str]:
    """Which weights to start from, the same for all seeds of the row."""
    if not row.prefer_pretrained:
        return config, ""
    pretrained = with_pretrained(config, True)
    if not unfinished(run_folders(pretrained, plan.seeds, task, plan.out / RUNS)):
        return pretrained, pretrained_words(config.latents.backbone)
    return pretrained_if_available(config, task.data.train.shape)


def describe_patches(latents: LatentBranch | None) -> str:
    """How a ViT or its like cuts a latent; empty for other models."""
    return "" if latents is None else patches(latents.backbone, latents.shape[1:])


_FILES = ("model.safetensors", "pytorch_model.bin")


def with_pretrained(config: RunConfig, pretrained: bool) -> RunConfig:
    """The same settings, started from timm's weights or from none."""
    return replace(config, latents=replace(config.latents, pretrained=pretrained))


def pretrained_if_available(
    config: RunConfig, shape: tuple[int, int, int] | None
) -> tuple[RunConfig, str]:
    """Settings that can be run here, and which weights they start from.

    Args:
        config: settings of a row.
        shape: of a latent: channel, height, width.

    Raises:
        ConfigError: there is no such backbone, or it cannot take such latents.
    """
    name = config.latents.backbone
    scratch = with_pretrained(config, False)
    if shape is None:
        return scratch, "no branch of latents, so no backbone"
    if not _worth_trying(name):
        return scratch, "from scratch: no weights on this disk, no hub in reach"
    wanted = with_pretrained(config, True)
    try:
        build_backbone(wanted.latents, shape[0], shape[1:])
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


class CachePool:
    """The main cache, and others of the same images.

    Closed caches are taken as they are: a row whose cache is absent says what builds it. Open sets
    are brought up to date as for `leak score`.

    Attributes:
        main: the cache of every row that does not ask for another.
        encoded: images that were encoded since the pool was made.
    """

    def __init__(
        self,
        main: Cache,
        also: Sequence[Cache] = (),
        open_roots: Sequence[Path] = (),
        device: str = "cpu",
        *,
        fill: bool = False,
    ) -> None:
        """Collect caches; nothing is read yet.

        Args:
            main: the closed cache.
            also: closed caches of the same images, encoded otherwise.
            open_roots: folders of unknown generators; the open set of the data without any.
            device: where images are encoded.
            fill: compute columns that a closed cache lacks, instead of refusing it.
        """
        self.main = main
        self.encoded = 0
        self._caches = (main, *also)
        self._roots, self._device, self._fill = tuple(open_roots), device, fill
        self._tasks: dict[tuple[Path, tuple[str, ...]], Task] = {}

    def find(self, required: CacheRequirement) -> Cache:
        """The first cache that fits.

        Raises:
            CacheError: there is none, or it holds other images; says what builds one.
        """
        encoding, manifest = self.main.manifest.encoding, self.main.manifest
        fitting = [c for c in self._caches if required.fits(encoding, c.manifest.encoding)]
        for cache in fitting:
            if cache.manifest.images_sha256 == manifest.images_sha256:
                return cache
        others = f"; {fitting[0].path} holds other images" if fitting else ""
        command = required.command(encoding, manifest.data_options)
        raise CacheError(
            f"needs a cache of the same images with {required.words}{others}: "
            f"run `{command}` and add --also DIR"
        )

    def task(self, cache: Cache, config: RunConfig) -> Task:
        """The task on a cache of the pool, unknown generators included.

        Args:
            cache: one of the pool.
            config: of the runs; decides which columns are read.

        Raises:
            CacheCorrupt: a shard's bytes do not match their checksum.
            CacheStale: the open set's cache belongs to other weights, or an image has changed.
            WeightsError: the autoencoder that open images are encoded with cannot be had.
        """
        key = (cache.path, config.columns())
        if key not in self._tasks:
            ensure_columns([cache], config.columns(), self._device, fill=self._fill)
            builds = open_set_builds(cache, self._roots, self._device)
            self.encoded += sum(build.computed for build in builds)
            unknown = open_splits([build.cache for build in builds], cache, config)
            self._tasks[key] = ClosedSet.load(cache, config).whole(unknown)
        return self._tasks[key]
