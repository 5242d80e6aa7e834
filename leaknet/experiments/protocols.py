"""The protocols of `leak evaluate`, from one cache and several seeds.

    closed      train on all generators; attribute those of the validation and test folds
    open        the same runs against generators of other caches
    leave-out   train without some generators; their test images are the unknown ones
    shuffle     a control: the same on permuted labels
    transfer    the closed runs on images of the same generators from another collection

Only the leave-out protocol is free of differences in format and date: known and unknown images
come from one data set and show the same prompts. The same call resumes where an earlier one
stopped; runs lie below one output folder:

    seed0/  seed1/ ...    leave-2-out/fold0-seed0/ ...    shuffled/seed0/ ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil, gcd
from pathlib import Path

from leakcache.dataset.index import read_index
from leakcache.dataset.split_file import REAL
from leakcache.errors import ScoringError
from leakcache.files import parse_json, parse_toml
from leakcache.store.build import build_alike, fill_columns, shared_columns
from leakcache.store.cache import Cache
from leakcache.store.manifest import FILE
from leaknet.checksums import read_text
from leaknet.experiments.answers import summarise_answers
from leaknet.experiments.controls import (
    ModeSummary,
    ShuffleSummary,
    check_real,
    gate_of,
    summarise_modes,
    summarise_real,
    summarise_shuffled,
)
from leaknet.experiments.evaluation import Evaluation, EvaluationPlan, LeaveOut, SeedFacts
from leaknet.experiments.transfer import Collection, TransferSummary, summarise_transfer
from leaknet.experiments.trial import (
    CPU,
    ClosedSet,
    RunTrial,
    Task,
    Training,
    Trial,
    run_trials,
    train_on_actors,
    trainings,
)
from leaknet.files import write_json
from leaknet.metrics.detection import OpenSummary, summarise_open, threshold
from leaknet.metrics.summary import summarise_closed
from leaknet.scoring.run_embeddings import CLOSED_FOLDS, open_splits
from leaknet.scoring.score_run import settings_of

SHUFFLED = "shuffled"


def left_out(
    generators: Sequence[str], together: int, *, always_known: int = 0
) -> tuple[tuple[str, ...], ...]:
    """The blocks of generators that are treated as unknown, one block a training.

    Each generator is left out equally often. Where m divides their number, one round of disjoint
    blocks does it: four pairs of eight. Otherwise blocks are taken around the circle until it
    closes: five pairs of five, each generator in two. Neighbours in the alphabet, which are often
    versions of one model, fall into different blocks: left out together they would make the task
    easier.

    Args:
        generators: those that may be left out.
        together: m, how many at once.
        always_known: classes beside them that stay known, such as photographs.

    Raises:
        ScoringError: fewer than two generators would remain known.
    """
    count = len(generators)
    if together < 1 or count <= together or count - together + always_known < 2:
        raise ScoringError(
            f"--leave-out {together} of {count} generators leaves fewer than two known classes: "
            "take fewer, or 0 to leave none out"
        )
    order = _interleaved(sorted(generators), ceil(count / together))
    blocks = count // gcd(count, together)
    starts = [block * together for block in range(blocks)]
    return tuple(
        tuple(sorted(order[(start + step) % count] for step in range(together))) for start in starts
    )


def groups_of(
    path: Path, generators: Sequence[str], *, always_known: int = 0
) -> tuple[tuple[str, ...], ...]:
    """Groups of generators to leave out in turn, of a file as families.toml.

    Args:
        path: TOML with a line `name = [generators]` for each group.
        generators: those that may be left out.
        always_known: classes beside them that stay known.

    Raises:
        ScoringError: the file cannot be read, has no groups or other generators, or leaves fewer
            than two known classes.
    """
    try:
        groups = [tuple(sorted(members)) for members in parse_toml(read_text(path)).values()]
    except (OSError, ValueError, TypeError) as error:
        raise ScoringError(f"--leave-out {path}: {error}; give TOML as families.toml") from error
    other = sorted({name for group in groups for name in group} - set(generators))
    if other or not groups or not all(groups):
        reason = f"{other[0]} is no known generator" if other else "names no generators"
        raise ScoringError(f"--leave-out {path}: {reason}; a line is NAME = [GENERATORS]")
    if len(generators) - max(len(set(group)) for group in groups) + always_known < 2:
        raise ScoringError(f"--leave-out {path}: a group leaves fewer than two known classes")
    return tuple(groups)


def _interleaved(names: list[str], step: int) -> list[str]:
    return [name for first in range(step) for name in names[first::step]]


def evaluate(
    plan: EvaluationPlan,
    closed: Cache,
    unknown: Sequence[Cache] = (),
    collections: Sequence[Collection] = (),
) -> Evaluation:
    """Train what is not trained yet, and evaluate all of it.

    Args:
        plan: the recipe and the protocols.
        closed: cache of the known generators.
        unknown: caches of generators that are never trained on.
        collections: images of the known generators from other collections.

    Raises:
        ScoringError: too few generators or images for a protocol, or an image is on both sides.
        RunError: a folder below `plan.out` holds a run with other settings or on other data.
        TrainingError: the data cannot be learnt from.
        CacheStale: an open cache was encoded otherwise.
    """
    plan = replace(plan, real=plan.real or tuple({REAL} & set(closed.classes)))
    check_real(plan.real, closed.classes)
    blocks = _blocks(plan, closed)
    data = ClosedSet.load(closed, plan.config)
    task = data.whole(open_splits(unknown, closed, plan.config))
    if plan.pool:
        train_on_actors(plan.pool, _trainings(plan, data, task, blocks))
    main = run_trials(task, plan.configs, _folders(plan, plan.out), plan, score=True)
    tests = [one.test for one in main]
    others = [one.unknown for one in main if one.unknown is not None]
    return Evaluation(
        plan=plan,
        cache=closed.path,
        classes=closed.classes,
        images=_images(main[0]),
        facts=tuple(_facts(one) for one in main),
        closed={
            "prototype": summarise_closed(tests),
            "mahalanobis": summarise_closed(tests, [one.mahalanobis_scores for one in main]),
        },
        validation=summarise_closed([one.val for one in main]),
        open=_against_unknown([[one] for one in main]) if others else {},
        answers=summarise_answers([[one] for one in main], plan.reported, plan.alpha, plan.real),
        leave_out=_leave_out(plan, data, blocks) if blocks else None,
        modes=_modes(main) if plan.modes else {},
        real=summarise_real(tests, others, plan.real) if plan.real else None,
        shuffle=_shuffle(plan, data) if plan.shuffle else None,
        transfer={one.name: _transfer(plan, main, one) for one in collections},
    )


def _folders(plan: EvaluationPlan, parent: Path, fold: str = "") -> list[Path]:
    return [parent / f"{fold}seed{config.train.seed}" for config in plan.configs]


def _trainings(
    plan: EvaluationPlan, data: ClosedSet, task: Task, blocks: tuple[tuple[str, ...], ...]
) -> list[Training]:
    """All runs of the protocols."""
    found = trainings(lambda: task, plan.configs, _folders(plan, plan.out), plan)
    for number, block in enumerate(blocks):
        folders = _folders(plan, _leave_out_folder(plan), f"fold{number}-")
        found += trainings(partial(data.without, block), plan.configs, folders, plan)
    if plan.shuffle:
        for config, folder in zip(plan.configs, _folders(plan, plan.out / SHUFFLED), strict=True):
            shuffled = partial(data.shuffled, config.train.seed)
            found += trainings(shuffled, [config], [folder], plan)
    return found


def _leave_out_folder(plan: EvaluationPlan) -> Path:
    left = plan.leave_out
    return plan.out / f"leave-{left if isinstance(left, int) else left.stem}-out"


def _blocks(plan: EvaluationPlan, closed: Cache) -> tuple[tuple[str, ...], ...]:
    if not plan.leave_out:
        return ()
    generators = [name for name in closed.classes if name not in plan.real]
    if isinstance(plan.leave_out, Path):
        return groups_of(plan.leave_out, generators, always_known=len(set(plan.real)))
    return left_out(generators, plan.leave_out, always_known=len(set(plan.real)))


def _leave_out(
    plan: EvaluationPlan, data: ClosedSet, blocks: tuple[tuple[str, ...], ...]
) -> LeaveOut:
    parent = _leave_out_folder(plan)
    folds = [
        run_trials(
            data.without(block), plan.configs, _folders(plan, parent, f"fold{number}-"), plan
        )
        for number, block in enumerate(blocks)
    ]
    closed = tuple(summarise_closed([trial.test for trial in trials]) for trials in folds)
    by_seed = list(zip(*folds, strict=True))
    answers = summarise_answers(by_seed, plan.reported, plan.alpha)
    return LeaveOut(blocks, _against_unknown(by_seed), closed, answers)


def _against_unknown(trials: Sequence[Sequence[Trial]]) -> dict[str, OpenSummary]:
    """Every detector over seeds, and over the folds of each seed."""
    tables = [[one.detections() for one in folds] for folds in trials]
    names = list(tables[0][0])
    return {
        name: summarise_open(name, [[t[name] for t in row] for row in tables]) for name in names
    }


def _modes(trials: Sequence[RunTrial]) -> dict[str, ModeSummary]:
    gates = [gate_of(trial.run.load_model(CPU)) for trial in trials]
    unknown = [trial.unknown for trial in trials if trial.unknown is not None]
    return summarise_modes([trial.known for trial in trials], unknown, gates)


def _shuffle(plan: EvaluationPlan, data: ClosedSet) -> ShuffleSummary:
    folders = _folders(plan, plan.out / SHUFFLED)
    tests = []
    for config, folder in zip(plan.configs, folders, strict=True):
        task = data.shuffled(config.train.seed)
        tests += [one.test for one in run_trials(task, [config], [folder], plan, kinds=())]
    return summarise_shuffled(tests)


def _transfer(
    plan: EvaluationPlan, trials: Sequence[RunTrial], collection: Collection
) -> TransferSummary:
    """Over seeds; metrics.json of each run gets its own figures."""
    for trial in trials:
        own = summarise_transfer([trial], collection, plan.alpha, force=plan.force)
        metrics = parse_json(read_text(trial.run.metrics))
        transfer = metrics.get("transfer", {}) | {collection.name: own.as_dict()}
        write_json(trial.run.metrics, metrics | {"transfer": transfer})
    return summarise_transfer(trials, collection, plan.alpha, force=plan.force)


def _facts(trial: RunTrial) -> SeedFacts:
    return SeedFacts(
        run=trial.run.path,
        model=trial.known.run,
        settings={d.name: settings_of(d) for d in trial.detectors},
        thresholds={d.name: threshold(d, trial.val) for d in trial.detectors},
    )


def _images(trial: Trial) -> dict[str, int]:
    counts = {fold: len(trial.known.select(fold)) for fold in CLOSED_FOLDS}
    return counts if trial.unknown is None else counts | {"open": len(trial.unknown)}


def collection_cache(other: Path, closed: Cache, device: str = "cpu") -> Cache:
    """The cache of another collection, with the columns of the closed one.

    Args:
        other: folder of a cache, or a data root, whose cache is then built beside the closed one.
        closed: decides how images are encoded.
        device: where to encode.

    Raises:
        DataError: the root holds no images.
        CacheStale: the autoencoder has other weights than when the closed cache was built.
    """
    folders = [folder for folder in (other / "closed", other) if (folder / FILE).is_file()]
    if folders:
        cache = Cache.open(folders[0])
    else:
        encoder = closed.manifest.encoding.encoder(device)
        folder = closed.path.parent / f"transfer-{other.resolve().name}"
        cache = build_alike(closed, read_index(other), encoder, folder, split="closed").cache
    fill_columns(cache, shared_columns(closed), device)
    return cache
