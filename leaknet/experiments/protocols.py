"""The protocols of `leak evaluate`, from one cache and several seeds.

    closed      train on all generators; name those of the validation and test folds
    open        the same runs against generators of other caches
    leave-out   train without some generators; their test images are the unknown ones
    shuffle     a control: the same on permuted labels

Only the leave-out protocol is free of format and era: known and unknown images come from one
data set, went through the same hands and show the same prompts. Runs lie in folders of their
own below one output folder, so that the same call goes on where an earlier one stopped:

    seed0/  seed1/ ...    leave-2-out/fold0-seed0/ ...    shuffled/seed0/ ...
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, gcd
from pathlib import Path

import torch

from leakcache.errors import ScoringError
from leakcache.store.cache import Cache
from leaknet.evaluation.closed_set import ClosedSummary, summarise_closed
from leaknet.evaluation.open_set import Detection, OpenSummary, summarise_open, threshold
from leaknet.experiments.answers import summarise_answers
from leaknet.experiments.attention_modes import ModeSummary, summarise_modes
from leaknet.experiments.label_shuffle import ShuffleSummary, summarise_shuffled
from leaknet.experiments.plan import Plan
from leaknet.experiments.real_or_generated import check_real, summarise_real
from leaknet.experiments.tables import Evaluation, LeaveOut, SeedFacts
from leaknet.experiments.task import ClosedSet
from leaknet.experiments.trial import Trial, run_trial
from leaknet.scoring.run_embeddings import CLOSED_FOLDS, CPU, open_splits
from leaknet.scoring.score_run import settings_of

# Which generators are left out together, so that each is left out equally often.
#
# The generators are sorted by name, dealt into as many hands as there are blocks, and cut into
# blocks of m around the circle. Where m divides their number, one round of disjoint blocks
# leaves each out once: four pairs of eight. Otherwise the circle is walked until it closes: five
# pairs of five, each generator in two. Dealing keeps neighbours in the alphabet apart, which are
# often versions of one model: left out together they would make the task easier.


def left_out(
    generators: Sequence[str], together: int, *, always_known: int = 0
) -> tuple[tuple[str, ...], ...]:
    """The blocks of generators that are treated as unknown, one block a training.

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
    order = _dealt(sorted(generators), ceil(count / together))
    blocks = count // gcd(count, together)
    starts = [block * together for block in range(blocks)]
    return tuple(
        tuple(sorted(order[(start + step) % count] for step in range(together))) for start in starts
    )


def _dealt(names: list[str], hands: int) -> list[str]:
    return [name for hand in range(hands) for name in names[hand::hands]]


def evaluate(
    plan: Plan,
    closed: Cache,
    unknown: Sequence[Cache],
    out: Path,
    device: torch.device = CPU,
) -> Evaluation:
    """Train what is not trained yet, and judge all of it.

    Args:
        plan: what to evaluate.
        closed: cache of the known generators.
        unknown: caches of generators that are never trained on.
        out: folder of the runs.
        device: where to compute.

    Raises:
        ScoringError: too few generators or images for a protocol, or an image is on both sides.
        RunError: a folder below `out` holds a run with other settings or on other data.
        TrainingError: the data cannot be learnt from.
        CacheStale: an open cache was encoded otherwise.
    """
    check_real(plan.real, closed.classes)
    blocks = _blocks(plan, closed)
    data = ClosedSet.load(closed)
    task = data.whole(open_splits(unknown, closed))
    main = [
        run_trial(
            task,
            config,
            out / f"seed{config.train.seed}",
            plan.kinds,
            device,
            judge=True,
            force=plan.force,
        )
        for config in plan.configs
    ]
    tests, strangers = [one.test for one in main], [one.unknown for one in main if one.unknown]
    return Evaluation(
        plan=plan,
        cache=closed.path,
        classes=closed.classes,
        images=_images(main[0]),
        facts=tuple(_facts(one) for one in main),
        closed=_closed(main),
        validation=summarise_closed([t.val for t in main], [t.val.logits for t in main]),
        open=_against_unknown([[one] for one in main]) if strangers else {},
        answers=summarise_answers([[one] for one in main], plan.reported, plan.alpha),
        leave_out=_leave_out(plan, data, blocks, out, device) if blocks else None,
        modes=_modes(main) if plan.modes else {},
        real=summarise_real(tests, strangers, plan.real) if plan.real else None,
        shuffle=_shuffle(plan, data, out, device) if plan.shuffle else None,
    )


def _blocks(plan: Plan, closed: Cache) -> tuple[tuple[str, ...], ...]:
    if not plan.leave_out:
        return ()
    generators = [name for name in closed.classes if name not in plan.real]
    return left_out(generators, plan.leave_out, always_known=len(set(plan.real)))


def _leave_out(
    plan: Plan,
    data: ClosedSet,
    blocks: tuple[tuple[str, ...], ...],
    out: Path,
    device: torch.device,
) -> LeaveOut:
    folder = out / f"leave-{plan.leave_out}-out"
    tasks = [data.without(block) for block in blocks]
    trials = [
        [
            run_trial(
                task, config, folder / f"fold{fold}-seed{config.train.seed}", plan.kinds, device
            )
            for fold, task in enumerate(tasks)
        ]
        for config in plan.configs
    ]
    folds = [[row[fold].test for row in trials] for fold in range(len(blocks))]
    closed = tuple(summarise_closed(tests, [test.logits for test in tests]) for tests in folds)
    answers = summarise_answers(trials, plan.reported, plan.alpha)
    return LeaveOut(blocks, _against_unknown(trials), closed, answers)


def _against_unknown(trials: Sequence[Sequence[Trial]]) -> dict[str, OpenSummary]:
    """Every detector over seeds, and over the folds of each seed."""
    tables = [[_detections(one) for one in folds] for folds in trials]
    names = list(tables[0][0])
    return {
        name: summarise_open(name, [[t[name] for t in row] for row in tables]) for name in names
    }


def _detections(trial: Trial) -> dict[str, Detection]:
    if trial.unknown is None:
        return {}
    val, test, unknown = trial.val, trial.test, trial.unknown
    return {d.name: Detection.of(d, val, test, unknown) for d in trial.scorers.detectors}


def _closed(trials: Sequence[Trial]) -> dict[str, ClosedSummary]:
    tests = [trial.test for trial in trials]
    naming = [trial.scorers.naming.class_scores(trial.test) for trial in trials]
    return {
        "prototype": summarise_closed(tests, [test.logits for test in tests]),
        "mahalanobis": summarise_closed(tests, naming),
    }


def _modes(trials: Sequence[Trial]) -> dict[str, ModeSummary]:
    gates = [trial.run.load_model(CPU).gate for trial in trials]
    unknown = [trial.unknown for trial in trials if trial.unknown]
    return summarise_modes([trial.known for trial in trials], unknown, gates)


def _shuffle(plan: Plan, data: ClosedSet, out: Path, device: torch.device) -> ShuffleSummary:
    trials = []
    for config in plan.configs:
        seed = config.train.seed
        folder = out / "shuffled" / f"seed{seed}"
        trials.append(run_trial(data.shuffled(seed), config, folder, (), device))
    return summarise_shuffled([trial.test for trial in trials])


def _facts(trial: Trial) -> SeedFacts:
    detectors = trial.scorers.detectors
    return SeedFacts(
        run=trial.run.path,
        model=trial.known.run,
        settings={d.name: settings_of(d) for d in detectors},
        thresholds={d.name: threshold(d, trial.val) for d in detectors},
    )


def _images(trial: Trial) -> dict[str, int]:
    counts = {fold: len(trial.known.select(fold)) for fold in CLOSED_FOLDS}
    return counts if trial.unknown is None else counts | {"open": len(trial.unknown)}
