"""From the trials of a method to the figures of its rows: the same for every method."""

from __future__ import annotations

from collections.abc import Sequence

from leakcache.errors import ScoringError
from leaknet.detectors import Detector
from leaknet.evaluation.closed_set import summarise_closed
from leaknet.evaluation.fold_evaluation_detection import Detection
from leaknet.evaluation.open_set import summarise_open
from leaknet.evaluation.summary import Summary
from leaknet.experiments.benchmark.fold_bench_trial import PeerTrial
from leaknet.experiments.benchmark.tables import BenchRow
from leaknet.scoring.fitted_detectors import fit_all


def judge_method(
    method: str, trials: Sequence[PeerTrial], detector: type[Detector]
) -> list[BenchRow]:
    """One row a step; `trials` holds one training a seed.

    Raises:
        ScoringError: the test fold is empty or of one class.
    """
    fitted, reason = _fitted(trials, detector)
    rows = []
    for step in trials[0].steps:
        figures = _closed(trials, step)
        if not reason:
            figures |= _open(trials, step, fitted)
        rows.append(
            BenchRow(
                method=method,
                step=step,
                figures=figures,
                parameters=trials[0].parameters,
                seconds=sum(trial.seconds(step) for trial in trials) / len(trials),
                reason=reason,
            )
        )
    return rows


def _closed(trials: Sequence[PeerTrial], step: int) -> dict[str, Summary]:
    tests = [trial.steps[step].select("test") for trial in trials]
    found = summarise_closed(tests, [test.logits for test in tests])
    return {name: found.metrics[name] for name in ("top1", "macro_auc")}


def _fitted(trials: Sequence[PeerTrial], detector: type[Detector]) -> tuple[list[Detector], str]:
    """A detector a seed, or why there is none."""
    if not any(len(one.select("open")) for one in trials[0].steps.values()):
        return [], "no unknown generators: name some with --open"
    try:
        return [fit_all([detector], trial.known)[0] for trial in trials], ""
    except ScoringError as error:
        return [], f"no open figures: {error}"


def _open(trials: Sequence[PeerTrial], step: int, fitted: Sequence[Detector]) -> dict[str, Summary]:
    found = []
    for trial, detector in zip(trials, fitted, strict=True):
        judged = trial.steps[step]
        val = trial.known.select("val")
        test, unknown = judged.select("test"), judged.select("open")
        found.append([Detection.of(detector, val, test, unknown)])
    summary = summarise_open(fitted[0].name, found)
    return {
        "open_auroc": summary.pooled["auroc"],
        "open_mean": summary.mean["auroc"],
        "open_worst": summary.worst["auroc"],
    }
